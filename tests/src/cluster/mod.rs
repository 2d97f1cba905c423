//! A Kubernetes cluster for tests: the one that `tests/cluster` starts, or the one that `KUBECONFIG` names.
//!
//! ```text
//! cluster() ── Cluster ── namespace("flights") ── Namespace ── install() ── an operator for this namespace alone
//!              kubectl, helm, images              apply, wait_for, volume; deleted with all in it when it is dropped
//! ```
//!
//! Every test has a namespace and an operator of its own, so tests run side by side and on a cluster that others use too. One
//! that stops components of the cluster has it `alone()`. The cluster stays up when the tests end; `make cluster-down` removes it. A test that fails leaves logs, objects and events in
//! a folder that it names.
//!
//! | variable | what it says |
//! |---|---|
//! | `MILLRACE_CLUSTER` | tests that need a cluster run; else they say that they do not, and pass |
//! | `KUBECONFIG` | another cluster's; its images have to be there already |
//! | `MILLRACE_IMAGE`, `MILLRACE_OPERATOR_IMAGE` | these, in place of images of the binaries under test |
//! | `MILLRACE`, `MILLRACE_OPERATOR` | the binaries under test, in place of those that cargo built beside the test |
//! | `MILLRACE_KEEP` | namespaces stay when their tests end |
//! | `MILLRACE_KEEP_CRDS` | the cluster's resource definitions stay as they are; else this checkout's are applied |

mod faults;
mod hold;
mod install;
mod namespace;
mod watch;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};

pub use self::{
    faults::{Away, Processes, Ready},
    install::{Installed, OPERATOR_PORT, expect_nothing_forbidden},
    namespace::Namespace,
    watch::{Watch, condition, version},
};
use crate::{process, workspace::repository};

/// Where the image of a shell is that the cluster always has.
pub const BUSYBOX: &str = "millrace.test/busybox:1";

/// A cluster that is up, with the resource definitions of this checkout.
#[derive(Debug)]
pub struct Cluster {
    environment: Vec<(String, String)>,
    is_ours: bool,
}

/// The images under test.
#[derive(Clone, Debug)]
pub struct Images {
    /// The operator's.
    pub operator: String,
    /// The runtime's.
    pub runtime: String,
}

/// The cluster that this process' tests share; `None`, with a word of it, where none is asked for.
pub fn cluster() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    if std::env::var_os("MILLRACE_CLUSTER").is_none() {
        println!("skipped: it needs a cluster, and MILLRACE_CLUSTER is not set");
        return None;
    }
    Some(SHARED.get_or_init(Cluster::up))
}

impl Cluster {
    fn up() -> Self {
        let (_, said) = harness(["up"], None);
        println!("{said}");
        let (settings, _) = harness(["env"], None);
        let mut environment: Vec<(String, String)> = settings.lines().filter_map(setting).collect();
        let other = std::env::var("KUBECONFIG").ok().filter(|path| !path.is_empty());
        let own = environment.iter().find(|(name, _)| name == "KUBECONFIG").map(|(_, path)| path.clone());
        let is_ours = other.is_none() || other == own;
        if !is_ours {
            environment.retain(|(name, _)| name == "PATH");
        }
        let cluster = Self { environment, is_ours };
        if std::env::var_os("MILLRACE_KEEP_CRDS").is_none() {
            // Whoever upgrades keeps the fields that others own.
            cluster
                .kubectl(["apply", "--server-side", "--force-conflicts", "-f", "-"])
                .input(&millrace_crds::crd_yaml())
                .run();
        }
        cluster.kubectl(["wait", "--for=condition=Established", "crd/pipelines.millrace.dev", "--timeout=30s"]).run();
        cluster
    }

    /// The way to it.
    ///
    /// # Panics
    ///
    /// If nothing says it.
    pub fn kubeconfig(&self) -> PathBuf {
        let own = self.environment.iter().find(|(name, _)| name == "KUBECONFIG").map(|(_, path)| path.into());
        own.or_else(|| std::env::var_os("KUBECONFIG").map(PathBuf::from)).expect("a cluster has a kubeconfig")
    }

    /// `kubectl` at this cluster.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Tool {
        self.tool("kubectl", args)
    }

    /// `helm` at this cluster.
    pub fn helm<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Tool {
        self.tool("helm", args)
    }

    /// Any command, with this cluster's settings.
    pub fn tool<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Tool {
        let mut command = Command::new(program);
        command.args(args).envs(self.environment.iter().cloned()).current_dir(repository());
        Tool { command, input: String::new() }
    }

    /// A namespace of a test's own.
    pub fn namespace(&self, name: &str) -> Namespace<'_> {
        Namespace::new(self, name, hold::Hold::with_others())
    }

    /// The same for a test that breaks the cluster: no other test uses it meanwhile.
    ///
    /// # Panics
    ///
    /// If the test is not in a module `alone`: by that name `make test` runs these beside the tests that need no cluster.
    #[track_caller]
    pub fn alone(&self, name: &str) -> Namespace<'_> {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        assert!(test.contains("alone::"), "{test} wants the cluster for itself, and is in no module `alone`");
        Namespace::new(self, name, hold::Hold::alone())
    }

    /// Runs a command of `tests/cluster`, such as a fault; what it wrote to its standard output.
    ///
    /// # Panics
    ///
    /// With what it said, if it fails.
    #[track_caller]
    pub fn harness<'b>(&self, args: impl IntoIterator<Item = &'b str>) -> String {
        harness(args, None).0
    }

    /// Everything that there is, as `Kind namespace/name`, but for what comes and goes by itself.
    pub fn everything(&self) -> BTreeSet<String> {
        let kinds = self.kubectl(["api-resources", "--verbs=list", "--output=name"]).run();
        let passing = ["events", "events.events.k8s.io", "componentstatuses"];
        let kinds: Vec<&str> = kinds.lines().filter(|kind| !passing.contains(kind)).collect();
        let columns = "--output=custom-columns=:.apiVersion,:.kind,:.metadata.namespace,:.metadata.name";
        let args = ["get", &kinds.join(","), "--all-namespaces", "--ignore-not-found", "--no-headers", columns];
        let listed = self.kubectl(args).run();
        let lines = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.filter(|words| words.len() == 4).map(|words| format!("{} {}/{}", words[1], words[2], words[3])).collect()
    }

    /// The images of the binaries under test, loaded once.
    pub fn images(&self) -> &'static Images {
        static LOADED: OnceLock<Images> = OnceLock::new();
        LOADED.get_or_init(|| {
            let runtime = process::binary();
            let operator = match std::env::var_os("MILLRACE_OPERATOR") {
                Some(path) => PathBuf::from(path),
                None => runtime.with_file_name("millrace-operator"),
            };
            let image = |variable: &str, name: &str, binary: PathBuf| {
                if let Ok(image) = std::env::var(variable) {
                    return image;
                }
                assert!(self.is_ours, "{variable} has to name an image that the cluster of KUBECONFIG has");
                let image = format!("{name}:test");
                let binary = binary.to_string_lossy().into_owned();
                println!("{}", harness(["image", &image, "--binary", &binary], None).1);
                image
            };
            Images {
                operator: image("MILLRACE_OPERATOR_IMAGE", "millrace-operator", operator),
                runtime: image("MILLRACE_IMAGE", "millrace", runtime),
            }
        })
    }

    /// Whether it is one of this machine, whose components can be stopped.
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Puts logs, objects and events into a folder, for who looks into a failure.
    pub fn collect(&self, folder: &str) {
        if self.is_ours {
            println!("{}", harness(["collect", folder], None).1);
        }
    }
}

/// A line of `env`, such as `export KUBECONFIG="/x"`.
fn setting(line: &str) -> Option<(String, String)> {
    let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
    let path = std::env::var("PATH").unwrap_or_default();
    Some((name.to_owned(), value.trim_matches('"').replace("$PATH", &path)))
}

/// Runs a command of `tests/cluster`; what it wrote to its standard output and to its standard error.
fn harness<'a>(args: impl IntoIterator<Item = &'a str>, input: Option<&str>) -> (String, String) {
    let mut command = Command::new("python3");
    command.arg("tests/cluster").args(args).current_dir(repository());
    let output = Tool { command, input: input.unwrap_or_default().to_owned() }.run_whole();
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A command that speaks to a cluster.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    input: String,
}

impl Tool {
    /// With this on its standard input.
    pub fn input(mut self, text: &str) -> Self {
        text.clone_into(&mut self.input);
        self
    }

    /// Runs it; what it wrote to its standard output.
    ///
    /// # Panics
    ///
    /// With what it said, if it fails.
    #[track_caller]
    pub fn run(self) -> String {
        String::from_utf8_lossy(&self.run_whole().stdout).into_owned()
    }

    #[track_caller]
    fn run_whole(self) -> Output {
        let shown = format!("{:?}", self.command);
        let output = self.output();
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{shown} ended with {}\n{said}{wrong}", output.status);
        output
    }

    /// Runs it; what it wrote to its standard output, or to its standard error if it failed.
    ///
    /// # Errors
    ///
    /// With what it said.
    pub fn attempt(self) -> Result<String, String> {
        let output = self.output();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// With a variable in its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it; what it writes to its standard output is the caller's to read.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn stream(mut self, stderr: impl Into<Stdio>) -> Child {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {:?}: {error}", self.command.get_program()),
        }
    }

    /// Runs it, whatever comes of it.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn output(mut self) -> Output {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {:?}: {error}", self.command.get_program()),
        };
        if let Some(mut stdin) = child.stdin.take() {
            // One that has ended already says why by its status.
            let _ = stdin.write_all(self.input.as_bytes());
        }
        child.wait_with_output().expect("the child is ours")
    }
}
