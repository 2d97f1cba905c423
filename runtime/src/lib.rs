//! The `millrace` command: one pipeline's runtime, on a laptop or in a pod.
