//! A Pipeline's objects in a cluster, made as the operator makes them, so that a worker can be tried without one.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use millrace_crds::manifest;
use millrace_plan::{
    handover::{Names, PLAN_KEY, PlanDocument, REPORT_KEY, ReportDocument},
    resolve, revision,
};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::cluster::{self, Namespace};

/// A namespace of the cluster, deleted with this.
pub struct Site {
    runtime: Runtime,
    client: Client,
    kubeconfig: PathBuf,
    namespace: Namespace<'static>,
}

impl Site {
    /// A new one; `None`, with a word of it, where no cluster is asked for.
    ///
    /// # Panics
    ///
    /// If the cluster does not answer.
    pub fn new(name: &str) -> Option<Self> {
        let cluster = cluster::cluster()?;
        Some(Self::over(cluster.namespace(&format!("worker-{name}"))))
    }

    /// The same over a namespace that is there.
    ///
    /// # Panics
    ///
    /// If the cluster does not answer.
    pub fn over(namespace: Namespace<'static>) -> Self {
        // It fails only if there is one already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = Runtime::new().expect("there are threads");
        let kubeconfig = namespace.cluster.kubeconfig();
        let client = runtime.block_on(async {
            let read = Kubeconfig::read_from(&kubeconfig).expect("the cluster's kubeconfig can be read");
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
            Client::try_from(config.expect("the kubeconfig names a cluster")).expect("it is reached over TLS")
        });
        Self { runtime, client, kubeconfig, namespace }
    }

    /// Where it is.
    pub fn namespace(&self) -> &Namespace<'static> {
        &self.namespace
    }

    /// What the API server has of a pod; `None`: there is none, or nobody answers.
    pub fn pod(&self, name: &str) -> Option<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace.name);
        self.runtime.block_on(pods.get(name)).ok()
    }

    /// The way to the cluster.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A Pipeline's objects, which an operator makes.
    pub fn objects(&self, name: &str) -> Objects<'_> {
        Objects { site: self, names: Names::of(name) }
    }

    /// A Pipeline's objects, all but the plan, made here.
    pub fn pipeline(&self, name: &str) -> Objects<'_> {
        let objects = self.objects(name);
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

/// A Pipeline's objects.
pub struct Objects<'s> {
    site: &'s Site,
    names: Names,
}

impl Objects<'_> {
    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.site.client.clone(), &self.site.namespace.name)
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.site.client.clone(), &self.site.namespace.name)
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
    kubeconfig: String,
}

#[derive(Default)]
struct BridgeState {
    is_cut: bool,
    streams: Vec<TcpStream>,
}

impl Bridge {
    /// A way to the API server that a kubeconfig names.
    ///
    /// # Panics
    ///
    /// If it names none.
    pub fn new(kubeconfig: &Path) -> Self {
        let text = fs::read_to_string(kubeconfig).expect("the kubeconfig can be read");
        let (_, rest) = text.split_once("https://").expect("it names a server");
        let server = rest.split(|end: char| end == '"' || end.is_whitespace()).next().unwrap_or_default().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
        let port = listener.local_addr().expect("it listens").port();
        let state = Arc::new(Mutex::new(BridgeState::default()));
        let bridge = Self { port, state: state.clone(), server: server.clone(), kubeconfig: text };
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
        let text = self.kubeconfig.replace(&self.server, &format!("127.0.0.1:{}", self.port));
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
