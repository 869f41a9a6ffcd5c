"""The commands of the `mmjax` program: each has `add_arguments(parser)` and `run(args) -> exit code`."""
