"""The command `knit`: the core's tasks on files, from the shell."""
