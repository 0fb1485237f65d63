"""Run tasks somewhere: thread pool, process pool, Parsl's HighThroughputExecutor."""
