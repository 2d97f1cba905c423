//! The worker of a Pipeline as a process of this machine, against the cluster's API server, without a pod and without an
//! operator: the tests make a Pipeline's objects and write its plan. So they kill it at every step, cut it off alone, and wait
//! for no kubelet. Pods are in `faults`.

mod away;
mod edits;
mod killed;
mod life;
mod pod;
mod volumes;
mod wishes;
mod zombie;
