//! A real S3 server on this machine: a gateway over a folder, which `make s3-gateway` builds.

use std::{
    collections::BTreeMap,
    env, fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    Deadline, Millrace,
    workspace::{cache, repository},
};

const VERSION: &str = "v1.8.0";
const ACCESS: &str = "millrace";
const SECRET: &str = "millrace-secret";
/// The node's address, at which pods reach what runs on this machine.
const NODE_ADDRESS: &str = "10.244.0.1";

/// A running gateway with one empty bucket, [`Gateway::BUCKET`].
pub struct Gateway {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
    users: BTreeMap<String, String>,
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
        Self::start_at("127.0.0.1")
    }

    /// Starts one that the cluster's pods reach, after building it if it is not there.
    ///
    /// # Panics
    ///
    /// If it cannot be built, or does not start.
    pub fn start_for_pods() -> Self {
        let built = Command::new("scripts/s3-gateway").current_dir(repository()).status();
        assert!(built.is_ok_and(|built| built.success()), "scripts/s3-gateway builds it");
        Self::start_at(NODE_ADDRESS)
    }

    fn start_at(host: &str) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder is writable");
        for name in [format!("store/{}", Self::BUCKET), "users".to_owned()] {
            fs::create_dir_all(folder.path().join(name)).expect("the folder is new");
        }
        let listener = TcpListener::bind((host, 0)).expect("there are ports");
        let address = listener.local_addr().expect("it listens");
        drop(listener);
        let child = spawn(address, &folder);
        Self { child, address, folder, users: BTreeMap::new() }.ready()
    }

    /// A URL in the bucket.
    pub fn url(&self, path: &str) -> String {
        format!("s3://{}/{path}", Self::BUCKET)
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The folder that has the objects below a path in the bucket.
    pub fn folder(&self, path: &str) -> PathBuf {
        self.folder.path().join("store").join(Self::BUCKET).join(path)
    }

    /// Lets somebody in who may do everything. It holds at once.
    pub fn let_in(&mut self, access: &str, secret: &str) {
        self.users.insert(access.to_owned(), secret.to_owned());
        self.write_users();
    }

    /// Lets somebody in no more. It holds at once.
    pub fn shut_out(&mut self, access: &str) {
        self.users.remove(access);
        self.write_users();
    }

    fn write_users(&self) {
        let user = |(access, secret): (&String, &String)| {
            (access.clone(), json!({"access": access, "secret": secret, "role": "admin"}))
        };
        let users: BTreeMap<_, _> = self.users.iter().map(user).collect();
        let folder = self.folder.path().join("users");
        let next = folder.join("next");
        fs::write(&next, json!({"accessAccounts": users}).to_string()).expect("the folder is writable");
        fs::rename(next, folder.join("users.json")).expect("the folder is writable");
    }

    /// The command with what it needs to reach the gateway.
    pub fn reached_by(&self, command: Millrace) -> Millrace {
        command
            .env("AWS_ACCESS_KEY_ID", ACCESS)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL", &self.endpoint())
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
    command.arg("--iam-dir").arg(folder.path().join("users")).arg("--iam-cache-disable");
    command.arg("posix").arg(folder.path().join("store"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("cannot start {:?}: {error}; `make s3-gateway` builds it", binary()))
}

fn binary() -> PathBuf {
    match env::var_os("VERSITYGW") {
        Some(path) => path.into(),
        None => cache().join(format!("bin/versitygw-{VERSION}")),
    }
}
