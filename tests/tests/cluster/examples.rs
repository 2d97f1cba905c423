//! Every example, from `kubectl apply` to its output. The flights' is what DuckDB makes of the same records, also when they are edited
//! while they run; the others' equals what the same example gives in one process, which `tests/all` compares with DuckDB and DataFusion.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use millrace_tests::{
    Cell, Deadline, Millrace, Table, Workspace, cluster,
    cluster::{Cluster, Namespace},
    delta,
    manifest::{self, claim, edited},
    read,
    workspace::{repository, unpacked},
};
use serde_json::{Value, json};

use crate::{
    live::{Live, condition},
    plugin,
};

/// The output of the example beside this one, run in this process' machine without a cluster.
fn in_one_process(manifests: &str) -> Workspace {
    let workspace = Workspace::new();
    Millrace::run(&workspace, manifests).finish().expect_success();
    workspace
}

fn folder(volume: &Path, name: &str) -> Table {
    read::folder(&volume.join(name))
}

#[test]
fn every_example_of_a_cluster_is_tried_by_a_test_here() {
    let tried = fs::read_to_string(repository().join("tests/tests/cluster/examples.rs")).unwrap();
    let folders = fs::read_dir(repository().join("examples/cluster")).unwrap();
    let names: BTreeSet<String> = folders
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(names.len() >= 3, "{names:?}");
    let missing: Vec<&String> = names.iter().filter(|name| !tried.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "no test runs {missing:?}");
}

#[test]
fn every_example_of_a_cluster_is_without_a_mistake() {
    for example in ["flights", "cluster/access-logs", "cluster/nexmark-q5", "cluster/follow"] {
        let workspace = Workspace::new();
        let checked = Millrace::new(&workspace, ["check", "-f", &format!("examples/{example}")]).finish();
        checked.expect_success();
    }
}

#[test]
fn every_example_is_taken_by_the_api_server() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("taken");
    let said = namespace.kubectl(["apply", "--dry-run=server", "--recursive", "-f", "examples"]).run();
    let pipelines = said.lines().filter(|line| line.starts_with("pipeline.millrace.dev/")).count();
    assert!(pipelines >= 25, "{said}");
}

/// Applies an example and waits for its end.
fn run_to_its_end<'a>(cluster: &'a Cluster, example: &str, input: Option<(&str, &str)>) -> Namespace<'a> {
    let namespace = cluster.namespace(example);
    let installed = namespace.install(&[]);
    if let Some((name, file)) = input {
        namespace.config_map(name, file);
    }
    namespace.apply(&Namespace::example(example));
    namespace.wait_for(&format!("pipeline/{example}"), ".status.phase", "Finished");
    installed.expect_nothing_forbidden();
    drop(installed);
    namespace
}

const FLIGHTS: &str = "examples/flights/flights-2013-01.csv.gz";
/// The day in New York, in winter, on which a flight was to leave.
const DAY: &str = "time_bucket(INTERVAL '24 hours', time_hour, TIMESTAMPTZ '1970-01-01 05:00:00Z')";
/// And its hour.
const HOUR: &str = "time_bucket(INTERVAL '1 hour', time_hour)";

/// DuckDB's answer to a query over the `flights`, which are in these files.
fn duckdb_over_flights(files: &Path, query: &str) -> Table {
    let flights = format!("WITH flights AS (FROM read_csv('{}', nullstr = 'NA', filename = true))", files.display());
    delta::duckdb(repository(), &format!("{flights} {query}"), &[])
}

/// What goes to the Delta table, of some of the flights.
fn by_carrier(which: &str) -> String {
    format!(
        "SELECT carrier, {DAY} AS day, count(*) AS flights, count(*) FILTER (WHERE dep_delay > 15) AS delayed, \
         count(*) FILTER (WHERE dep_delay IS NULL) AS cancelled, avg(dep_delay) AS avg_delay FROM flights \
         WHERE {which} GROUP BY ALL"
    )
}

/// What goes to the Parquet folder, by when windows begin.
fn by_origin(hour: &str) -> String {
    format!(
        "SELECT origin, {hour} AS hour, count(*) AS flights, count(dep_delay) AS departed, \
         count(*) FILTER (WHERE dep_delay > 15) AS delayed, avg(dep_delay) AS avg_delay, max(dep_delay) AS worst_delay \
         FROM flights GROUP BY ALL"
    )
}

/// What of the flights' output does not depend on the order in which sketches merge.
fn without_percentile(table: Table) -> Table {
    table.without(&["p90_delay"])
}

#[test]
fn flights_land_on_a_volume() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = run_to_its_end(cluster, "flights", Some(("flights-input", FLIGHTS)));
    let volume = namespace.volume("flights-output");
    let found = delta::table(&volume.join("delays_by_carrier"));
    assert_eq!(found.sum("flights"), 27_004);
    let files = repository().join(FLIGHTS);
    without_percentile(found).expect_same(&duckdb_over_flights(&files, &by_carrier("true")), "days by carrier");
    folder(&volume, "delays_by_origin").expect_same(&duckdb_over_flights(&files, &by_origin(HOUR)), "hours by origin");

    // kubectl and its plugin say the same.
    let told = namespace.kubectl(["get", "pipelines"]).run();
    assert!(told.lines().any(|line| line.starts_with("flights ") && line.contains(" Finished ")), "{told}");
    let status = plugin::ask(&namespace, &["status", "flights"]);
    assert!(status.starts_with("flights  Finished"), "{status}");
    assert!(!status.contains("  ! "), "{status}");
    let plan = plugin::ask(&namespace, &["plan", "-f", "examples/flights"]);
    assert!(plan.starts_with("flights: None: nothing changes"), "{plan}");

    // What a Pipeline owns goes with it; what `Retain` keeps stays.
    namespace.kubectl(["delete", "-f", "examples/flights", "--ignore-not-found"]).run();
    namespace.wait_for_objects("statefulsets,leases,roles,rolebindings,poddisruptionbudgets,services", &[]);
    namespace.wait_for_objects("persistentvolumeclaims", &["persistentvolumeclaim/data-flights-0"]);
}

/// The flights' manifests, of a folder that is followed.
fn flights_that_come() -> String {
    let text = edited(
        &Namespace::example("flights"),
        "paths: [examples/flights/flights-2013-01.csv.gz]",
        "paths: [examples/flights/*.csv], follow: true, pollInterval: 200ms",
    );
    edited(&text, "configMap: {name: flights-input}", "persistentVolumeClaim: {claimName: flights-input}")
}

/// The flights' records as lines, and the line with the names of their columns.
fn records() -> (String, Vec<String>) {
    let text = unpacked(FLIGHTS);
    let mut lines = text.lines().map(str::to_owned);
    (lines.next().unwrap(), lines.collect())
}

/// Puts a file with lines into a folder, all of it at once.
fn put(folder: &Path, name: &str, head: &str, lines: &[String]) {
    let unseen = folder.join(format!(".{name}"));
    fs::write(&unseen, format!("{head}\n{}\n", lines.join("\n"))).unwrap();
    fs::rename(unseen, folder.join(name)).unwrap();
}

/// Waits until a source has read all there is, up to rows of which the latest is of this moment.
#[track_caller]
fn reads_up_to(live: &Live<'_>, source: &str, millis: i64) {
    Deadline::secs(120).wait_for("the end of what there is to read", || {
        let report = live.report();
        let nodes = report["nodes"].as_array().into_iter().flatten();
        let mut of_it = nodes.filter(|node| node["name"] == source);
        let is_there = |node: &Value| node["lagBytes"] == 0 && node["watermark"].as_i64() >= Some(millis);
        of_it.any(is_there).then_some(())
    });
}

#[test]
fn flights_are_edited_by_kubectl_apply_while_they_run_and_come_out_as_duckdb_has_them() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("flights-edited");
    let installed = namespace.install(&[]);
    let live = Live::new(&namespace, "flights");
    let manifests = flights_that_come();
    namespace.apply(&[claim("flights-input"), manifests.clone()].join("\n---\n"));
    for claim in ["flights-input", "flights-output"] {
        namespace.wait_for(&format!("persistentvolumeclaim/{claim}"), ".status.phase", "Bound");
    }
    let input = namespace.volume("flights-input");
    let output = namespace.volume("flights-output");
    let (head, lines) = records();
    let (before, after) = lines.split_at(lines.len() / 2);
    put(&input, "before.csv", &head, before);
    live.is_ready();
    let told = namespace.kubectl(["get", "pipelines"]).run();
    assert!(told.lines().any(|line| line.starts_with("flights ") && line.contains(" Running ")), "{told}");
    // From when on windows are as edited: the first three hours that begin after every record so far.
    let facts = "SELECT epoch_ms(max(time_hour)) AS latest, epoch_ms(time_bucket(INTERVAL '3 hours', max(time_hour)) + \
                 INTERVAL '3 hours') AS boundary FROM flights";
    let facts = duckdb_over_flights(&input.join("before.csv"), facts);
    let (latest, boundary) = (facts.rows[0]["latest"].int(), facts.rows[0]["boundary"].int());
    reads_up_to(&live, "flights", latest - 24 * 3_600_000);
    let process = live.process();

    // A filter, the length of a window, and a branch with a Sink of its own.
    let pipeline =
        edited(&manifests, "FROM flights GROUP BY carrier", "FROM flights WHERE origin <> 'LGA' GROUP BY carrier");
    let pipeline = edited(
        &pipeline,
        "  outputs:\n",
        "    - name: cancelled\n      sql: SELECT time_hour, carrier, origin FROM \
                           flights WHERE dep_delay IS NULL\n  outputs:\n    - {from: cancelled, sink: cancelled}\n",
    );
    let edit = edited(&pipeline, "tumbling: {size: 1h}", "tumbling: {size: 3h}")
        + &manifest::sink("cancelled", "file: {path: out/flights/cancelled, format: {json: {}}}");
    let object = live.takes_up(&edit);
    let change = &object["status"]["change"];
    let said = change["reason"].as_str().unwrap();
    assert!(change["class"] == "Hot" && said.contains("cancelled: a new transform"), "{change:#}");
    live.was_told_before_it_was_done(change["to"].as_str().unwrap());
    put(&input, "later.csv", &head, after);
    let all = input.join("*.csv");
    let cancelled =
        "SELECT time_hour, carrier, origin FROM flights WHERE dep_delay IS NULL AND filename LIKE '%/later.csv'";
    let cancelled = duckdb_over_flights(&all, cancelled);
    assert!(cancelled.len() > 100, "the second half has such flights");
    Deadline::secs(120)
        .wait_for("the new branch's rows", || (folder(&output, "cancelled").len() == cancelled.len()).then_some(()));
    assert_eq!(live.process(), process, "it is the same process all along");

    // Another edit: there is nothing more to come.
    live.edit(&edited(&edit, ", follow: true, pollInterval: 200ms", ""));
    live.is_in("Finished");
    let by_carrier = by_carrier("filename LIKE '%/before.csv' OR origin <> 'LGA'");
    let three = HOUR.replace("1 hour", "3 hours");
    let by_origin = by_origin(&format!("CASE WHEN epoch_ms(time_hour) < {boundary} THEN {HOUR} ELSE {three} END"));
    let carriers = without_percentile(delta::table(&output.join("delays_by_carrier")));
    carriers.expect_same(&duckdb_over_flights(&all, &by_carrier), "days by carrier");
    let origins = folder(&output, "delays_by_origin");
    assert_eq!(origins.sum("flights"), 27_004);
    origins.expect_same(&duckdb_over_flights(&all, &by_origin), "hours by origin");
    folder(&output, "cancelled").expect_same(&cancelled, "flights that were cancelled");
    delta::expect_no_orphans(&output.join("delays_by_carrier"));
    installed.expect_nothing_forbidden();
}

#[test]
fn access_logs_land_on_a_volume() {
    let Some(cluster) = cluster::cluster() else { return };
    let input = ("access-logs-input", "examples/data/access.log.gz");
    let namespace = run_to_its_end(cluster, "access-logs", Some(input));
    let volume = namespace.volume("access-logs-output");
    let expected = in_one_process("examples/access-logs");
    for name in ["health", "top_pages"] {
        folder(&volume, name).expect_same(&folder(&expected.join("out/access-logs"), name), name);
    }
    let dead = |table: Table| table.only(&["raw", "reason"]);
    dead(folder(&volume, "dead_letters"))
        .expect_same(&dead(folder(&expected.join("out/access-logs"), "dead_letters")), "dead letters");
}

#[test]
fn a_nexmark_query_with_a_hopping_window_lands_on_a_volume() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = run_to_its_end(cluster, "nexmark-q5", None);
    let expected = in_one_process("examples/nexmark/q5.yaml");
    let found = read::folder(&namespace.volume("nexmark-q5-output"));
    found.expect_same(&folder(&expected.join("out/nexmark"), "q5"), "hot items");
}

#[test]
fn a_folder_that_is_being_written_is_followed() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("follow");
    let installed = namespace.install(&[]);
    namespace.apply(&Namespace::example("follow"));
    namespace.wait_until("pipeline/follow", "Ready");
    namespace.wait_for("job/follow-writer", ".status.succeeded", "1");
    let volume = namespace.volume("follow-output");
    let errors = Deadline::secs(60).wait_for("1000 errors", || {
        let table = folder(&volume, "errors");
        (table.len() >= 1000).then_some(table)
    });
    let mut lines: Vec<i64> = errors.column("line").map(millrace_tests::Cell::int).collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..5000).step_by(5).collect::<Vec<i64>>());
    installed.expect_nothing_forbidden();
}

/// What the examples of a laptop read, by the ConfigMaps that bring it to a cluster.
const INPUTS: [(&str, &str); 2] = [("inputs", "examples/data"), ("followed", "examples/follow/logs")];

/// The examples of a laptop, by what `millrace run -f` is told: their objects.
fn of_a_laptop() -> BTreeMap<String, Vec<Value>> {
    let mut examples = BTreeMap::new();
    for (path, _) in read::visible_files(&repository().join("examples")) {
        let below = path.strip_prefix(repository()).unwrap();
        let is_here = below.extension().is_some_and(|extension| extension == "yaml")
            && !below.starts_with("examples/cluster")
            && !below.starts_with("examples/flights");
        if is_here {
            let objects: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(&path).unwrap()).unwrap();
            examples.insert(below.to_str().unwrap().to_owned(), objects);
        }
    }
    examples
}

/// Moves an example to a namespace that it shares with others: the names of its Windows and Sinks are its own, its pod has the folders that
/// a checkout has. The Pipeline's name.
fn move_in(objects: &mut [Value]) -> String {
    let is_pipeline = |object: &&mut Value| object["kind"] == "Pipeline";
    let name = objects.iter_mut().find(is_pipeline).unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    let own = |of: &mut Value| {
        if let Some(others) = of.as_str() {
            *of = json!(format!("{name}-{others}"));
        }
    };
    for object in objects {
        if object["kind"] != "Pipeline" {
            own(&mut object["metadata"]["name"]);
            continue;
        }
        let spec = &mut object["spec"];
        for transform in spec["transforms"].as_array_mut().into_iter().flatten() {
            if transform["window"].is_string() {
                own(&mut transform["window"]);
            }
        }
        spec["outputs"].as_array_mut().unwrap().iter_mut().for_each(|output| own(&mut output["sink"]));
        let mut mounts = vec![json!({"name": "output", "mountPath": "/checkout/out"})];
        let mut volumes = vec![json!({"name": "output", "persistentVolumeClaim": {"claimName": "output"}})];
        for (name, folder) in INPUTS {
            mounts.push(json!({"name": name, "mountPath": format!("/checkout/{folder}"), "readOnly": true}));
            volumes.push(json!({"name": name, "configMap": {"name": name}}));
        }
        let container = json!({"name": "millrace", "workingDir": "/checkout", "volumeMounts": mounts});
        let template = json!({"spec": {"containers": [container], "volumes": volumes}});
        spec["deployment"] = json!({"template": template, "volume": {"size": "1Gi"}});
    }
    name
}

/// What an example's output has in the end, whenever it was looked at and by which clock.
fn settled(folder: &str, table: Table) -> Table {
    // Of a changelog the newest row of each key.
    let keys: &[&str] = match folder {
        "nexmark/q15" => &["day"],
        "nexmark/q16" => &["channel", "day"],
        "nexmark/q17" => &["auction", "day"],
        "nexmark/q18" => &["bidder", "auction"],
        // Windows by the clock: all of them.
        "nexmark/q12" => {
            let bids = Cell::Int(table.sum("bids"));
            return Table { rows: vec![BTreeMap::from([("bids".to_owned(), bids)])] };
        }
        "access-logs/dead_letters" | "dead-letter/errors" => return table.only(&["raw", "reason"]),
        _ => return table,
    };
    table.newest_by(keys)
}

/// The folders below `out` that an example writes to.
fn written(objects: &[Value]) -> Vec<String> {
    let sinks = objects.iter().filter(|object| object["kind"] == "Sink");
    let places = sinks.map(|sink| {
        let spec = &sink["spec"];
        let place = spec["file"]["path"].as_str().or(spec["parquet"]["uri"].as_str()).unwrap();
        place.strip_prefix("out/").unwrap().to_owned()
    });
    places.collect()
}

#[test]
fn every_example_of_a_laptop_runs_on_a_cluster_too() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("laptop");
    let installed = namespace.install(&["replicas=1"]);
    for (name, folder) in INPUTS {
        namespace.config_map(name, folder);
    }
    namespace.apply(&claim("output"));
    namespace.wait_for("persistentvolumeclaim/output", ".status.phase", "Bound");
    let output = namespace.volume("output");
    let examples = of_a_laptop();
    assert!(examples.len() > 20, "{:?}", examples.keys());
    let mut moved = examples.clone();
    let names: BTreeMap<String, String> =
        moved.iter_mut().map(|(example, objects)| (example.clone(), move_in(objects))).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": moved.values().flatten().collect::<Vec<_>>()});
    namespace.apply(&list.to_string());

    for (example, objects) in &examples {
        let object = format!("pipeline/{}", names[example]);
        let is_endless = objects.iter().any(|object| object["spec"]["sources"][0]["file"]["follow"] == true);
        if is_endless {
            namespace.wait_until(&object, "Ready");
            let lines = fs::read_to_string(repository().join("examples/follow/logs/yesterday.log")).unwrap();
            let errors = lines.lines().filter(|line| line.contains("level=error")).count();
            let landed = || folder(&output, "follow/errors").len();
            Deadline::secs(60).wait_for("the errors of the log", || (landed() == errors).then_some(()));
        } else {
            namespace.wait_for(&object, ".status.phase", "Finished");
            let expected = in_one_process(example);
            for place in written(objects) {
                let found = settled(&place, folder(&output, &place));
                assert!(!found.is_empty(), "{example} writes nothing to {place}");
                found.expect_same(&settled(&place, folder(&expected.join("out"), &place)), &place);
            }
        }
    }
    // The operator takes all that they are made of.
    let seen = namespace.kubectl(["get", "pipelines,windows,sinks", "-o", "json"]).run();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    let seen = seen["items"].as_array().unwrap();
    assert_eq!(seen.len(), moved.values().flatten().count());
    for object in seen {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        assert_eq!(condition(object, "ConfigValid").0, "True", "{name}: {:#}", object["status"]);
    }
    installed.expect_nothing_forbidden();
}
