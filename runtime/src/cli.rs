//! The command line: what can be asked, and how `--help` explains it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Exit code of a pipeline that failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of manifests, options or an edit that cannot be used: nothing was started.
pub const EXIT_USAGE: u8 = 2;
/// The data folder of `millrace run`, unless it is given another.
pub const DATA_DIR: &str = "millrace-data";

/// Millrace, a stream processor: manifests in, exactly-once results out.
#[derive(Debug, Parser)]
#[command(name = "millrace", bin_name = "millrace", version, about, max_term_width = 100, propagate_version = true)]
#[command(after_help = "\
Examples:
  millrace run -f pipeline/                        run until the input ends, or Ctrl-C
  millrace check -f pipeline/                      find every mistake, start nothing
  millrace plan -f new/ --against old/             what an edit would do
  millrace checkpoints list                        what can be resumed from

Exit codes: 0 done or stopped at a checkpoint, 1 the pipeline failed, 2 wrong manifests or options.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// How much to log: error, warn, info, debug or trace, or a filter such as `millrace_engine=debug`.
    #[arg(long, global = true, value_name = "FILTER", env = "MILLRACE_LOG", default_value = "info")]
    pub log: String,

    /// The form of log lines on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// An object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a pipeline in this process.
    ///
    /// A bounded pipeline ends by itself when its input has, with every window closed and every row committed. SIGINT
    /// (Ctrl-C) and SIGTERM stop it at a final checkpoint; the next run with the same data folder goes on from there.
    #[command(after_help = "\
Examples:
  millrace run -f examples/flights
  millrace run -f web.yaml --data-dir ./data --watch --listen 127.0.0.1:9600
  cat pipeline.yaml | millrace run -f - --data-dir ./data")]
    Run(RunArgs),

    /// Run one Pipeline in a pod, as the operator's StatefulSet does.
    ///
    /// It takes the Lease `<pipeline>-coordinator`, runs what the ConfigMap `<pipeline>-plan` says, keeps the pointer to the
    /// last checkpoint in `<pipeline>-checkpoint`, and tells in `<pipeline>-report` what it does. All four are made by the
    /// operator. The API server is found as by kubectl (KUBECONFIG), or by the pod's service account. SIGTERM stops it at a
    /// final checkpoint and gives the Lease back.
    #[command(after_help = "\
Examples:
  millrace worker --namespace shop --pipeline web-errors --data-dir /data --listen 0.0.0.0:9600
  KUBECONFIG=./kubeconfig POD_NAME=me POD_UID=1 millrace worker -n shop -p web-errors --data-dir ./data

Credentials of an object store (`checkpoints.storage: s3://…`) are read from the environment: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP; or from files of these names in the folder
MILLRACE_STORAGE_CREDENTIALS, where a key that is replaced is taken up at the next request.

Exit codes: 0 stopped at a checkpoint, 1 it could not be completed in time, 2 wrong options or no way to the API server.")]
    Worker(WorkerArgs),

    /// Check manifests and show every mistake in them.
    #[command(after_help = "Example:\n  millrace check -f examples/flights")]
    Check(ManifestArgs),

    /// Show how a pipeline would run, or what an edit of it would do.
    ///
    /// With `--against` the exit code is 1 if the edit would be refused.
    #[command(after_help = "\
Examples:
  millrace plan -f examples/flights
  millrace plan -f examples/flights -o dot | dot -Tsvg > plan.svg
  millrace plan -f new/ --against old/")]
    Plan(PlanArgs),

    /// Look at a data folder's checkpoints, and take or delete savepoints.
    #[command(subcommand)]
    Checkpoints(CheckpointsCommand),

    /// Print the schema of the resources, for a cluster or for an editor.
    #[command(after_help = "\
Examples:
  millrace schema > crds.yaml                      CustomResourceDefinitions, for kubectl apply
  millrace schema --json > millrace.schema.json    JSON Schema, for editors")]
    Schema(SchemaArgs),

    /// Print the completions of a shell.
    #[command(after_help = "Example:\n  millrace completions bash > /etc/bash_completion.d/millrace")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Where manifests come from.
#[derive(Args, Clone, Debug)]
pub struct ManifestArgs {
    /// A manifest, a folder of them (*.yaml, *.yml, *.json), or `-` for standard input. May be given several times.
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH")]
    pub files: Vec<PathBuf>,

    /// The Pipeline that is meant, where the manifests hold several.
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
}

/// `millrace run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The manifests.
    #[command(flatten)]
    pub manifests: ManifestArgs,

    /// The folder for state and checkpoints. It is made if it does not exist; one pipeline a folder.
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    pub data_dir: PathBuf,

    /// Take up edits of the manifests while running, each at a checkpoint barrier.
    #[arg(long)]
    pub watch: bool,

    /// Serve /metrics, /healthz, /readyz and /api/v1/pipeline on this address. Port 0 takes a free one and logs it.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<std::net::SocketAddr>,

    /// How many tasks a keyed stage has, in place of the manifest's `parallelism`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=128))]
    pub parallelism: Option<u32>,

    /// Start from this savepoint (its name, as `checkpoints list` shows it) instead of the latest checkpoint.
    #[arg(long, value_name = "NAME")]
    pub from_savepoint: Option<String>,

    /// If the newest checkpoint is damaged, start from the one before it; if the checkpoints are older than what was
    /// committed (a backup of them, say), start from them all the same. Rows that were committed since may then be
    /// committed again.
    #[arg(long)]
    pub allow_previous_checkpoint: bool,

    /// Do not show the live view, even on a terminal.
    #[arg(long)]
    pub no_live: bool,
}

/// `millrace worker`.
#[derive(Args, Debug)]
pub struct WorkerArgs {
    /// The Pipeline's namespace.
    #[arg(short = 'n', long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub namespace: String,

    /// The Pipeline's name.
    #[arg(short = 'p', long, value_name = "NAME")]
    pub pipeline: String,

    /// The folder for state, and for checkpoints unless `checkpoints.storage` names another place: the pod's volume.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Serve /metrics, /healthz, /readyz and /api/v1/pipeline on this address. Port 0 takes a free one and logs it.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<std::net::SocketAddr>,

    /// This pod's name. With its UID it says who holds the Lease.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod_name: String,

    /// This pod's UID.
    #[arg(long, value_name = "UID", env = "POD_UID")]
    pub pod_uid: String,

    /// How long a stop may take. Less than the pod's terminationGracePeriodSeconds: then it is killed.
    #[arg(long, value_name = "SECONDS", default_value_t = 50)]
    pub stop_within_seconds: u64,
}

/// `millrace plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// The manifests.
    #[command(flatten)]
    pub manifests: ManifestArgs,

    /// The manifests of the pipeline as it is now: shows the class of the edit, node by node.
    #[arg(long, value_name = "PATH")]
    pub against: Vec<PathBuf>,

    /// The form.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
}

/// The form in which a plan is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// For people.
    Text,
    /// Graphviz.
    Dot,
}

/// `millrace checkpoints`.
#[derive(Debug, Subcommand)]
pub enum CheckpointsCommand {
    /// List checkpoints and savepoints, newest first.
    #[command(after_help = "Example:\n  millrace checkpoints list --data-dir ./data")]
    List(DataArgs),

    /// Show one checkpoint: tasks, files, replay points, watermarks.
    #[command(after_help = "Example:\n  millrace checkpoints inspect --data-dir ./data 42")]
    Inspect {
        /// The data folder.
        #[command(flatten)]
        data: DataArgs,
        /// An epoch, or a savepoint's name.
        checkpoint: String,
    },

    /// Check that checkpoints are whole: every file of them, by its checksum, in the store where they are.
    ///
    /// Each file that is damaged or missing is named, and the exit code is 1 if there is one. The pipeline may be running.
    /// A run goes on from its own copy in the data folder as long as that is whole, so damage in the store may go unnoticed
    /// until that is lost.
    #[command(after_help = "\
Examples:
  millrace checkpoints verify --data-dir ./data
  millrace checkpoints verify --data-dir ./data savepoint-42")]
    Verify {
        /// The data folder.
        #[command(flatten)]
        data: DataArgs,
        /// An epoch, or a savepoint's name; unless given, all that there are.
        checkpoint: Option<String>,
    },

    /// Ask the running pipeline of a data folder for a savepoint, and wait until it is complete.
    #[command(after_help = "Example:\n  millrace checkpoints savepoint --data-dir ./data")]
    Savepoint {
        /// The data folder.
        #[command(flatten)]
        data: DataArgs,
        /// Give up after this many seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        timeout_seconds: u64,
    },

    /// Make anew what a data folder notes about itself and about its newest checkpoint, where that is damaged.
    ///
    /// For the files layout, instance, generation, pipeline and storage of the data folder, and latest of its checkpoints. The
    /// pipeline must not be running. Damaged files are kept under another name, and checkpoints stay as they are: for a
    /// damaged checkpoint there is `run --allow-previous-checkpoint`. Where latest is damaged or gone, the newest
    /// checkpoint that there is counts as complete.
    #[command(after_help = "Example:\n  millrace checkpoints repair --data-dir ./data")]
    Repair {
        /// The data folder.
        #[command(flatten)]
        data: DataArgs,
        /// The pipeline that the folder belongs to, where that is damaged and the storage holds several pipelines'.
        #[arg(long, value_name = "NAME")]
        pipeline: Option<String>,
    },

    /// Delete a savepoint, or with --all everything that a pipeline remembers.
    ///
    /// Checkpoints are kept and deleted by Millrace itself. After --all the next run begins at the beginning: it reads
    /// everything again, and what sinks have stays there. What a pipeline has in an object store is deleted without a data
    /// folder.
    #[command(after_help = "\
Examples:
  millrace checkpoints delete --data-dir ./data savepoint-42
  millrace checkpoints delete --data-dir ./data --all
  millrace checkpoints delete --all --keep-savepoints --storage s3://lake/checkpoints --pipeline shop/orders")]
    Delete(DeleteArgs),
}

/// `millrace checkpoints delete`.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// The folder that `millrace run` was given: for a savepoint millrace-data, unless given. Without it, with --all, what is in
    /// the object store of --storage.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where the checkpoints are. Unless given, where the pipeline that last ran in the data folder kept them.
    #[arg(long, value_name = "URL", required_unless_present_any = ["data_dir", "savepoint"])]
    pub storage: Option<String>,

    /// The savepoint's name.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub savepoint: Option<String>,

    /// Delete every checkpoint, savepoint and state of the pipeline, which must not be running.
    #[arg(long)]
    pub all: bool,

    /// Whose, where the storage holds several pipelines' and it is not the data folder's own that is meant; of a pipeline of a
    /// cluster NAMESPACE/NAME.
    #[arg(long, value_name = "NAME", requires = "all")]
    pub pipeline: Option<String>,

    /// Keep savepoints, with the files that they need. In an object store only.
    #[arg(long, requires = "all", conflicts_with = "data_dir")]
    pub keep_savepoints: bool,

    /// Write what was deleted and kept to this file, as JSON.
    #[arg(long, value_name = "FILE", requires = "all", hide = true)]
    pub result: Option<PathBuf>,
}

/// A data folder and where its checkpoints are.
#[derive(Args, Debug)]
pub struct DataArgs {
    /// The folder that `millrace run` was given.
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    pub data_dir: PathBuf,

    /// Where the checkpoints are. Unless given, where the pipeline that last ran in the data folder kept them.
    #[arg(long, value_name = "URL")]
    pub storage: Option<String>,
}

/// `millrace schema`.
#[derive(Args, Debug)]
pub struct SchemaArgs {
    /// Print a JSON Schema of one manifest document instead of CustomResourceDefinitions.
    #[arg(long)]
    pub json: bool,
}
