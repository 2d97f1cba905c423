//! The real `millrace` command as a child process.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{Deadline, Workspace, wait};

/// How long a command may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

static LOGS: AtomicU32 = AtomicU32::new(0);

/// A command line of `millrace`, to be run in a workspace.
#[derive(Debug)]
pub struct Millrace {
    command: Command,
    folder: PathBuf,
    patience: Duration,
}

impl Millrace {
    /// `millrace` with arguments.
    pub fn new<S: AsRef<OsStr>>(workspace: &Workspace, args: impl IntoIterator<Item = S>) -> Self {
        Self::wrapped(workspace, &[], args)
    }

    /// `millrace` with arguments, started by another command.
    pub fn wrapped<S: AsRef<OsStr>>(
        workspace: &Workspace,
        wrapper: &[&str],
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut words: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
        words.push(binary().into_os_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(args).current_dir(workspace.path());
        command
            .env_remove("MILLRACE_FAULT_POINT")
            .env_remove("MILLRACE_LOG")
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null());
        Self { command, folder: workspace.path().to_owned(), patience: PATIENCE }
    }

    /// `millrace run` of what `manifests` names, with the data folder `data` of the workspace.
    pub fn run(workspace: &Workspace, manifests: &str) -> Self {
        Self::new(workspace, ["run", "-f", manifests, "--data-dir", "data"])
    }

    /// With more arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// With a variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// With a file as standard input.
    pub fn stdin(mut self, from: File) -> Self {
        self.command.stdin(from);
        self
    }

    /// With another limit to how long it may take.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        let number = LOGS.fetch_add(1, Ordering::Relaxed);
        let logs = self.folder.join("logs");
        fs::create_dir_all(&logs).expect("the workspace is writable");
        let stdout = logs.join(format!("{number}.stdout"));
        let stderr = logs.join(format!("{number}.stderr"));
        self.command.stdout(File::create(&stdout).expect("the workspace is writable"));
        self.command.stderr(File::create(&stderr).expect("the workspace is writable"));
        let child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {:?}: {error}; `make build` builds it", self.command.get_program()),
        };
        Running { child, stdout, stderr, patience: self.patience, shown: format!("{:?}", self.command) }
    }

    /// Runs it to its end.
    pub fn finish(self) -> Finished {
        self.start().wait()
    }
}

/// A `millrace` that was started. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    patience: Duration,
    shown: String,
}

impl Running {
    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// What it has written to its standard output.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it has written to its standard error.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) -> Finished {
        let _ = self.child.kill();
        self.wait()
    }

    /// Asks it to end, with SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal, by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot send SIG{name}");
    }

    /// Waits for its end for so long at the most, and kills it if it has not come; `None`: it was killed.
    pub fn wait_or_kill(mut self, limit: Duration) -> (Option<ExitStatus>, Finished) {
        let status = Deadline::after(limit).poll(|| self.child.try_wait().expect("the child is ours"));
        let _ = self.child.kill();
        (status, self.wait())
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// With what it wrote, if it does not end.
    pub fn wait(mut self) -> Finished {
        let (status, elapsed) =
            wait::timed(|| Deadline::after(self.patience).poll(|| self.child.try_wait().expect("the child is ours")));
        let Some(status) = status else {
            panic!("{} did not end within {elapsed:?}\n{}{}", self.shown, self.stdout(), self.stderr());
        };
        Finished { status, stdout: self.stdout(), stderr: self.stderr(), elapsed, shown: self.shown.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a `millrace` that has ended left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// How long was waited for its end.
    pub elapsed: Duration,
    shown: String,
}

impl Finished {
    /// Its exit code; `None`: a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Checks its exit code.
    ///
    /// # Panics
    ///
    /// With what it wrote, if it is another one.
    pub fn expect_code(self, code: i32) -> Self {
        assert!(
            self.code() == Some(code),
            "{} ended with {}, expected exit code {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.shown,
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Checks that it succeeded.
    ///
    /// # Panics
    ///
    /// With what it wrote, if it did not.
    pub fn expect_success(self) -> Self {
        self.expect_code(0)
    }

    /// Checks that its standard error has each of these texts.
    ///
    /// # Panics
    ///
    /// With what it wrote, if one is missing.
    pub fn expect_stderr(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "{} does not say {text:?}:\n{}", self.shown, self.stderr);
        }
        self
    }
}

/// The `millrace` under test: what `MILLRACE` names, or else the one that cargo built beside this test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("MILLRACE") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("a process knows its executable");
    let built = test.parent().and_then(|deps| deps.parent()).expect("cargo puts tests into target/<profile>/deps");
    built.join("millrace")
}

fn read_lossy(path: &PathBuf) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
