//! `kubectl millrace`, against Pipelines that run.

use std::process::{Command, Output};

use millrace_tests::{Deadline, Workspace, cluster, cluster::Namespace, manifest, process};

/// Numbers without an end, of which every second goes on, at a rate that costs little.
fn pipeline(filter: &str) -> String {
    let spec = format!(
        "apiVersion: millrace.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: numbers}}\nspec:\n  \
         sources:\n    - name: ids\n      generator: {{rate: 100, fields: [{{name: id, sequence: {{}}}}, \
         {{name: ts, timestamp: {{start: \"2024-01-01T00:00:00Z\", step: 1s}}}}]}}\n      eventTime: {{column: ts}}\n  \
         transforms:\n    - {{name: some, sql: \"SELECT id FROM ids WHERE {filter}\"}}\n    \
         - {{name: counts, window: minute, sql: \"SELECT window_start, count(*) AS times FROM ids\"}}\n  \
         outputs: [{{from: some, sink: some}}, {{from: counts, sink: counts}}]\n  checkpoints: {{interval: 1s}}\n"
    );
    let rest = [
        manifest::window("minute", "tumbling: {size: 1m}"),
        manifest::sink("some", "file: {path: /data/out/some, format: {json: {}}}"),
        manifest::sink("counts", "file: {path: /data/out/counts, format: {json: {}}}"),
    ];
    spec + &rest.concat()
}

fn output(namespace: &Namespace<'_>, args: &[&str], input: &str) -> Output {
    let plugin = process::binary().with_file_name("kubectl-millrace");
    let place = ["--namespace", &namespace.name];
    namespace.cluster.tool(plugin, args.iter().copied().chain(place)).input(input).output()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the plugin says, in a namespace.
pub fn ask(namespace: &Namespace<'_>, args: &[&str]) -> String {
    let output = output(namespace, args, "");
    assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The exit code of `plan -f -`, and what it says.
pub fn plan(namespace: &Namespace<'_>, manifests: &str) -> (Option<i32>, String) {
    let output = output(namespace, &["plan", "-f", "-"], manifests);
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// Of Pipelines in the states of `reasons.yaml`: those with problems come first, and of one its problems do.
pub fn shows_problems_first(namespace: &Namespace<'_>) {
    let all = ask(namespace, &["status"]);
    let place = all.lines().next().unwrap().find("PROBLEM").unwrap();
    let rows: Vec<(&str, bool)> =
        all.lines().skip(1).map(|row| (row.split(' ').next().unwrap(), row.chars().count() > place)).collect();
    assert!(rows.iter().is_sorted_by_key(|(_, has_problem)| !has_problem), "{all}");
    let has_problem = |name: &str| rows.iter().find(|(row, _)| *row == name).unwrap().1;
    for name in ["bad-sink", "edits", "unschedulable", "crashing", "slow-checkpoints", "unknown-sink"] {
        assert!(has_problem(name), "{name}: {all}");
    }
    for name in ["running", "finished", "suspended", "no-checkpoint"] {
        assert!(!has_problem(name), "{name}: {all}");
    }
    for (name, problem) in [
        ("bad-sink", "Read-only file system"),
        ("crashing", "error: --log millrace=shout"),
        ("unschedulable", "node affinity/selector"),
        ("image-pull", "connection refused"),
        ("unknown-column", "`idd`"),
        ("slow-checkpoints", "checkpoints have failed"),
    ] {
        let status = ask(namespace, &["status", name]);
        let mut lines = status.lines();
        assert!(lines.next().unwrap().starts_with(name), "{status}");
        let problems: Vec<&str> = lines.take_while(|line| line.starts_with("  ! ")).collect();
        assert!(problems.iter().any(|line| line.contains(problem)), "{name}: {status}");
        // Each is said once.
        assert!(problems.len() <= 2, "{status}");
    }
    let status = ask(namespace, &["status", "running"]);
    let (head, graph) = status.split_once("\nNODE ").unwrap();
    assert!(head.contains("\ncheckpoint ") && head.contains(" ago, took "), "{status}");
    assert!(graph.lines().next().unwrap().ends_with("WATERMARK"), "{status}");
    let ids = graph.lines().find(|line| line.starts_with("ids ")).unwrap();
    let cells: Vec<&str> = ids.split_whitespace().collect();
    let rate = cells[2].parse::<f64>().unwrap_or(0.0);
    assert!((90.0..110.0).contains(&rate) && cells[4] == "rows" && cells[5].starts_with("2024-01-"), "{status}");
    let sink = graph.lines().find(|line| line.contains("└ rows ")).unwrap();
    assert!(sink.contains("sink, committed "), "{status}");
    // What the container before this one has said, where there is one.
    Deadline::secs(60).wait_for("a second crash", || {
        let said = output(namespace, &["logs", "crashing", "--previous"], "");
        text(&said.stdout).contains("error: --log millrace=shout").then_some(())
    });
}

#[test]
fn without_a_cluster_the_plugin_says_so() {
    let workspace = Workspace::new();
    let plugin = process::binary().with_file_name("kubectl-millrace");
    let output = Command::new(plugin)
        .args(["status", "--kubeconfig", "none"])
        .current_dir(workspace.path())
        .output()
        .expect("`make build` builds the plugin beside millrace");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("error: no cluster: "), "{}", text(&output.stderr));
}

#[test]
fn the_plugin_shows_asks_and_foresees() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("plugin");
    let installed = namespace.install(&[]);
    let (code, said) = plan(&namespace, &pipeline("id % 2 = 0"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("numbers: new; 5 nodes"), "{said}");
    namespace.apply(&pipeline("id % 2 = 0"));
    namespace.wait_until("pipeline/numbers", "Ready");

    let status = ask(&namespace, &["status", "numbers"]);
    assert!(status.starts_with("numbers  Running  1 pod ready"), "{status}");
    assert!(status.contains("\nids  ") && status.contains("\n└ some ") && status.contains("\n  └ some "), "{status}");
    assert!(ask(&namespace, &["status"]).contains("numbers  Running"));
    assert!(ask(&namespace, &["logs", "numbers", "--tail", "5"]).lines().count() > 0);

    // What edits would do; nothing is changed by asking.
    let (code, said) = plan(&namespace, &pipeline("id % 3 = 0"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("numbers: Hot: ") && said.contains("some (Hot)"), "{said}");
    let (code, said) = plan(&namespace, &manifest::window("minute", "tumbling: {size: 2m}"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("numbers: Hot: ") && said.contains("counts (Hot)"), "{said}");
    let (code, said) = plan(&namespace, &manifest::window("minute", "session: {gap: 2m}"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("numbers: Refused: ") && said.contains("the edit would be refused"), "{said}");
    let (code, said) = plan(&namespace, &pipeline("id % 3 = nothing"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("nothing"), "{said}");
    let interval = "checkpoints: {interval: 1s}";
    let several = pipeline("id % 2 = 0").replace(interval, &format!("{interval}\n  deployment: {{replicas: 3}}"));
    let (code, said) = plan(&namespace, &several);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("spec.deployment.replicas: 3 pods are not supported yet"), "{said}");
    let moved = pipeline("id % 2 = 0").replace("interval: 1s", "interval: 1s, storage: /elsewhere");
    let (code, said) = plan(&namespace, &moved);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("Pipeline numbers: the API server would refuse it"), "{said}");
    assert_eq!(namespace.get("pipeline", "numbers")["metadata"]["generation"], 1);

    let savepoint = ask(&namespace, &["savepoint", "numbers"]);
    assert!(savepoint.starts_with("savepoint-"), "{savepoint}");
    assert_eq!(ask(&namespace, &["suspend", "numbers"]), "numbers is suspended\n");
    assert!(ask(&namespace, &["status", "numbers"]).starts_with("numbers  Suspended"));
    let refused = output(&namespace, &["savepoint", "numbers"], "");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("numbers is suspended and takes no savepoint"), "{}", text(&refused.stderr));
    assert_eq!(ask(&namespace, &["resume", "numbers"]), "numbers runs\n");
    let uid = |namespace: &Namespace<'_>| namespace.get("pod", "numbers-0")["metadata"]["uid"].clone();
    let before = uid(&namespace);
    assert_eq!(ask(&namespace, &["restart", "numbers"]), "numbers has restarted\n");
    assert_ne!(uid(&namespace), before);
    let missing = output(&namespace, &["status", "nothing"], "");
    assert_eq!(missing.status.code(), Some(1));
    installed.expect_nothing_forbidden();
}
