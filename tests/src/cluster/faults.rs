//! What goes wrong with a cluster of this machine: its components, and the processes of pods.

use std::{
    io::Write,
    process::{Child, Command, Stdio},
};

use super::{Cluster, Namespace};

/// A component that does not run. It is started when this is dropped, since other tests need it.
#[derive(Debug)]
pub struct Away<'a> {
    cluster: &'a Cluster,
    component: &'static str,
    is_back: bool,
}

impl Cluster {
    /// Ends a component as its machine's shutdown would: `apiserver`, `etcd`, `kubelet`.
    pub fn stop(&self, component: &'static str) -> Away<'_> {
        self.take_away("stop", component)
    }

    /// Kills a component.
    pub fn kill(&self, component: &'static str) -> Away<'_> {
        self.take_away("kill", component)
    }

    fn take_away(&self, how: &str, component: &'static str) -> Away<'_> {
        self.harness([how, component]);
        Away { cluster: self, component, is_back: false }
    }
}

impl Away<'_> {
    /// Starts it again, and waits until it is ready.
    pub fn start(mut self) {
        self.is_back = true;
        self.cluster.harness(["start", self.component]);
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if !self.is_back {
            // Whatever is wrong already is what the test tells.
            let start = self.cluster.tool("python3", ["tests/cluster", "start", self.component]).attempt();
            if let Err(why) = start {
                println!("{} does not start again: {why}", self.component);
            }
        }
    }
}

impl Namespace<'_> {
    /// Sends a signal to all processes of a pod.
    ///
    /// # Panics
    ///
    /// If none of its containers runs.
    #[track_caller]
    pub fn signal(&self, signal: &str, pod: &str) {
        self.cluster.harness(["signal", signal, pod, "--namespace", &self.name]);
    }

    /// The processes of a pod, to be signalled at a moment that [`Self::signal`] would miss.
    ///
    /// # Panics
    ///
    /// If none of its containers runs.
    #[track_caller]
    pub fn processes(&self, pod: &str) -> Processes {
        let listed = self.cluster.harness(["pids", pod, "--namespace", &self.name]);
        Processes(listed.lines().map(str::to_owned).collect())
    }

    /// Asks for a pod to be deleted, and does not wait for that.
    pub fn delete_pod(&self, pod: &str, more: &[&str]) {
        self.kubectl(["delete", "pod", pod, "--wait=false"].into_iter().chain(more.iter().copied())).run();
    }
}

/// Processes of this machine.
#[derive(Debug)]
pub struct Processes(Vec<String>);

impl Processes {
    /// Sends a signal to all of them; `false`: one is not there any more.
    pub fn signal(&self, signal: &str) -> bool {
        self.ready(signal).send()
    }

    /// Readies a signal, to be sent within a fraction of a millisecond.
    ///
    /// # Panics
    ///
    /// If there is no shell.
    pub fn ready(&self, signal: &str) -> Ready {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read line; kill -s {signal} {}", self.0.join(" "))]).stdin(Stdio::piped());
        Ready(command.spawn().expect("there is a shell"))
    }
}

/// A signal that waits to be sent.
#[derive(Debug)]
pub struct Ready(Child);

impl Ready {
    /// Sends it; `false`: one of the processes is not there any more.
    pub fn send(mut self) -> bool {
        if let Some(mut stdin) = self.0.stdin.take() {
            // One that has ended already says why by its status.
            let _ = stdin.write_all(b"\n");
        }
        self.0.wait().is_ok_and(|status| status.success())
    }
}
