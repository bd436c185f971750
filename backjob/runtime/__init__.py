"""The process and its host: identity, forks, threads, child processes, time-outs, files. Knows nothing of jobs."""
