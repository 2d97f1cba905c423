//! A Pipeline's objects in a cluster, made as the operator makes them, so that a worker can be tried without one.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::{ConfigMap, Namespace},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use millrace_crds::manifest;
use millrace_plan::{
    handover::{Names, PLAN_KEY, PlanDocument, REPORT_KEY, ReportDocument},
    resolve, revision,
};
use serde_json::json;
use tokio::runtime::Runtime;

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// A namespace of the cluster that `KUBECONFIG` names, deleted with this.
pub struct Site {
    runtime: Runtime,
    client: Client,
    namespace: String,
}

impl Site {
    /// A new one.
    ///
    /// # Panics
    ///
    /// If there is no cluster.
    pub fn new(name: &str) -> Self {
        // It fails only if there is one already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = Runtime::new().expect("there are threads");
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("worker-{name}-{}-{number}", std::process::id());
        let client = runtime.block_on(async {
            let client = Client::try_default().await.expect("KUBECONFIG names a cluster");
            let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
            let object = Namespace { metadata, ..Namespace::default() };
            let namespaces: Api<Namespace> = Api::all(client.clone());
            namespaces.create(&PostParams::default(), &object).await.expect("namespaces can be made");
            client
        });
        Self { runtime, client, namespace }
    }

    /// Its name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A Pipeline's objects, all but the plan.
    pub fn pipeline(&self, name: &str) -> Objects<'_> {
        let objects = Objects { site: self, names: Names::of(name) };
        self.runtime.block_on(async {
            for name in [objects.names.checkpoint(), objects.names.report()] {
                let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
                let map = ConfigMap { metadata, ..ConfigMap::default() };
                objects.maps().create(&PostParams::default(), &map).await.expect("ConfigMaps can be made");
            }
            let metadata = ObjectMeta { name: Some(objects.names.coordinator()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(LeaseSpec::default()) };
            objects.leases().create(&PostParams::default(), &lease).await.expect("Leases can be made");
        });
        objects
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if env::var_os("MILLRACE_KEEP").is_some() {
            println!("keeps namespace {}", self.namespace);
            return;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = self.runtime.block_on(namespaces.delete(&self.namespace, &DeleteParams::default()));
    }
}

/// A Pipeline's objects.
pub struct Objects<'s> {
    site: &'s Site,
    names: Names,
}

impl Objects<'_> {
    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.site.client.clone(), &self.site.namespace)
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.site.client.clone(), &self.site.namespace)
    }

    /// Writes the plan.
    ///
    /// # Panics
    ///
    /// If the API server refuses it.
    pub fn want(&self, plan: &PlanDocument) {
        self.want_text(&serde_json::to_string(plan).expect("a plan is JSON"));
    }

    /// Writes what should be a plan.
    ///
    /// # Panics
    ///
    /// If the API server refuses it.
    pub fn want_text(&self, text: &str) {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": self.names.plan()}, "data": {PLAN_KEY: text},
        });
        let params = PatchParams::apply("test").force();
        let written = async { self.maps().patch(&self.names.plan(), &params, &Patch::Apply(map)).await };
        self.site.runtime.block_on(written).expect("the plan can be written");
    }

    /// The report; `None`: there is none yet.
    ///
    /// # Panics
    ///
    /// If it cannot be read.
    pub fn report(&self) -> Option<ReportDocument> {
        let text = self.data(&self.names.report()).remove(REPORT_KEY)?;
        Some(serde_json::from_str(&text).expect("the report can be read"))
    }

    /// What the pointer's ConfigMap holds.
    pub fn checkpoint(&self) -> BTreeMap<String, String> {
        self.data(&self.names.checkpoint())
    }

    /// The number of the last checkpoint.
    pub fn epoch(&self) -> Option<u64> {
        self.checkpoint().get("epoch")?.parse().ok()
    }

    fn data(&self, name: &str) -> BTreeMap<String, String> {
        let map = self.site.runtime.block_on(self.maps().get(name)).expect("the ConfigMap can be read");
        map.data.unwrap_or_default()
    }

    /// Who holds the Lease.
    pub fn holder(&self) -> Option<String> {
        let lease = self.site.runtime.block_on(self.leases().get(&self.names.coordinator()));
        let spec = lease.expect("the Lease can be read").spec?;
        spec.holder_identity.filter(|holder| !holder.is_empty())
    }

    /// How often the plan's, the report's, the pointer's and the Lease's object have been written, as the API server counts
    /// writes: two of these tell whether something was written in between.
    pub fn versions(&self) -> Vec<String> {
        self.site.runtime.block_on(async {
            let mut versions = Vec::new();
            for name in [self.names.report(), self.names.checkpoint()] {
                let map = self.maps().get(&name).await.expect("the ConfigMap can be read");
                versions.extend(map.metadata.resource_version);
            }
            versions
        })
    }
}

/// The plan of manifests that hold one Pipeline.
///
/// # Panics
///
/// If they cannot be compiled.
pub fn plan(manifests: &str) -> PlanDocument {
    let (found, problems) = manifest::read(&[("manifests.yaml".to_owned(), manifests.as_bytes().to_vec())]);
    assert!(problems.is_empty(), "{problems:?}");
    let pipeline = &found.pipelines[0];
    let (windows, sinks) = (found.windows_in(pipeline.namespace()), found.sinks_in(pipeline.namespace()));
    let spec = resolve(pipeline.name(), pipeline.value.spec.clone(), &windows, &sinks).expect("every name is there");
    PlanDocument {
        version: PlanDocument::VERSION,
        revision: revision(&spec),
        spec,
        suspend: false,
        savepoint: None,
        start_from: None,
    }
}

/// A way to the cluster that can be cut: what goes through it passes, or finds nobody.
pub struct Bridge {
    port: u16,
    state: Arc<Mutex<BridgeState>>,
    server: String,
}

#[derive(Default)]
struct BridgeState {
    is_cut: bool,
    streams: Vec<TcpStream>,
}

impl Bridge {
    /// A way to the API server that `KUBECONFIG` names.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn new() -> Self {
        let text = fs::read_to_string(kubeconfig()).expect("KUBECONFIG can be read");
        let (_, rest) = text.split_once("https://").expect("KUBECONFIG names a server");
        let server = rest.split(|end: char| end == '"' || end.is_whitespace()).next().unwrap_or_default().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
        let port = listener.local_addr().expect("it listens").port();
        let state = Arc::new(Mutex::new(BridgeState::default()));
        let bridge = Self { port, state: state.clone(), server: server.clone() };
        thread::spawn(move || {
            for from in listener.incoming().flatten() {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.is_cut {
                    continue;
                }
                let Ok(to) = TcpStream::connect(&server) else { continue };
                for (from, to) in [(&from, &to), (&to, &from)] {
                    if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
                        thread::spawn(move || carry(from, to));
                    }
                }
                state.streams.extend([from, to]);
            }
        });
        bridge
    }

    /// A kubeconfig that leads over it.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn kubeconfig(&self, path: PathBuf) -> PathBuf {
        let text = fs::read_to_string(kubeconfig()).expect("KUBECONFIG can be read");
        let text = text.replace(&self.server, &format!("127.0.0.1:{}", self.port));
        fs::write(&path, text).expect("the workspace is writable");
        path
    }

    /// Ends every connection and takes no new one, or takes them again.
    pub fn cut(&self, is_cut: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_cut = is_cut;
        if is_cut {
            for stream in state.streams.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Default for Bridge {
    fn default() -> Self {
        Self::new()
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16384];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) if to.write_all(&buffer[..length]).is_err() => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn kubeconfig() -> PathBuf {
    env::var_os("KUBECONFIG").expect("KUBECONFIG names a cluster").into()
}
