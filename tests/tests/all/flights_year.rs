//! The flights of the whole year, which are in no order, against DuckDB over the same files.

use millrace_tests::{Millrace, Workspace, delta, read, workspace::repository};

/// The example's manifests, over the year's twelve files and in two tasks.
fn manifests_of_the_year(workspace: &Workspace) {
    let folder = delta::flights();
    for name in ["pipeline.yaml", "window.yaml", "sinks.yaml"] {
        let text = std::fs::read_to_string(repository().join("examples/flights").join(name)).unwrap();
        let files = folder.join("flights-2013-*.csv");
        let text = text.replace("examples/flights/flights-2013-01.csv.gz", files.to_str().unwrap());
        workspace.write(
            format!("year/{name}"),
            text.replace("\nspec:\n  sources:", "\nspec:\n  parallelism: 2\n  sources:"),
        );
    }
}

#[test]
fn the_flights_of_a_year_give_what_duckdb_gives() {
    let workspace = Workspace::new();
    manifests_of_the_year(&workspace);
    Millrace::run(&workspace, "year").finish().expect_success();

    let csv = format!("read_csv('{}/flights-2013-*.csv', nullstr = 'NA')", delta::flights().display());
    let by_carrier = delta::duckdb(
        workspace.path(),
        &format!(
            "SELECT carrier, time_bucket(INTERVAL '24 hours', time_hour, TIMESTAMPTZ '1970-01-01 05:00:00Z') AS day, \
             count(*) AS flights, count(*) FILTER (WHERE dep_delay > 15) AS delayed, \
             count(*) FILTER (WHERE dep_delay IS NULL) AS cancelled, avg(dep_delay) AS avg_delay \
             FROM {csv} GROUP BY ALL"
        ),
        &[],
    );
    let by_origin = delta::duckdb(
        workspace.path(),
        &format!(
            "SELECT origin, time_bucket(INTERVAL '1 hour', time_hour) AS hour, count(*) AS flights, count(dep_delay) AS departed, \
             count(*) FILTER (WHERE dep_delay > 15) AS delayed, avg(dep_delay) AS avg_delay, max(dep_delay) AS worst_delay \
             FROM {csv} GROUP BY ALL"
        ),
        &[],
    );
    assert_eq!(by_carrier.sum("flights"), 336_776);

    let found = delta::table(&workspace.join("out/flights/delays_by_carrier"));
    found.clone().without(&["p90_delay"]).expect_same(&by_carrier, "days by carrier");
    read::folder(&workspace.join("out/flights/delays_by_origin")).expect_same(&by_origin, "hours by origin");
}
