"""How people see it: figures for notebooks and the strict notebook runner."""
