//! End-to-end, fault and oracle tests, and the harness they share.
