//! A real S3 server on this machine: a gateway over a folder, which `make s3-gateway` builds.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{Deadline, Millrace, workspace::cache};

const VERSION: &str = "v1.8.0";
const ACCESS: &str = "millrace";
const SECRET: &str = "millrace-secret";

/// A running gateway with one empty bucket, [`Gateway::BUCKET`].
pub struct Gateway {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Gateway {
    /// The bucket.
    pub const BUCKET: &str = "lake";

    /// Starts one.
    ///
    /// # Panics
    ///
    /// If it is not built, or does not start.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder is writable");
        fs::create_dir(folder.path().join(Self::BUCKET)).expect("the folder is new");
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
        let address = listener.local_addr().expect("it listens");
        drop(listener);
        let child = spawn(address, &folder);
        Self { child, address, folder }.ready()
    }

    /// A URL in the bucket.
    pub fn url(&self, path: &str) -> String {
        format!("s3://{}/{path}", Self::BUCKET)
    }

    /// The folder that has the objects below a path in the bucket.
    pub fn folder(&self, path: &str) -> PathBuf {
        self.folder.path().join(Self::BUCKET).join(path)
    }

    /// The command with what it needs to reach the gateway.
    pub fn reached_by(&self, command: Millrace) -> Millrace {
        command
            .env("AWS_ACCESS_KEY_ID", ACCESS)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL", &format!("http://{}", self.address))
            .env("AWS_ALLOW_HTTP", "true")
    }

    /// Ends the gateway in the middle of whatever it does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, with what it had.
    pub fn restart(self) -> Self {
        let mut this = self;
        this.kill();
        this.child = spawn(this.address, &this.folder);
        this.ready()
    }

    fn ready(self) -> Self {
        Deadline::secs(30).wait_for("the S3 gateway", || TcpStream::connect(self.address).ok());
        self
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(address: SocketAddr, folder: &TempDir) -> Child {
    let mut command = Command::new(binary());
    command.args(["--access", ACCESS, "--secret", SECRET, "--port"]).arg(address.to_string());
    command.arg("posix").arg(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("cannot start {:?}: {error}; `make s3-gateway` builds it", binary()))
}

fn binary() -> PathBuf {
    match env::var_os("VERSITYGW") {
        Some(path) => path.into(),
        None => cache().join(format!("bin/versitygw-{VERSION}")),
    }
}
