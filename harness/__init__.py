"""What is done to every mechanism: the layouts it is dropped into, one file per metric, the runner."""
