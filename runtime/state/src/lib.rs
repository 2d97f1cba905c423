//! What is remembered: keyed state over RocksDB, snapshots and the checkpoint store.
