//! Moments that nanoseconds have no room for: people write them for "never".

use millrace_tests::{Millrace, Workspace, manifest, read};

/// The moments of the rows, by their numbers.
const MOMENTS: [&str; 6] = [
    "9999-12-31T00:00:00Z",
    "9999-12-30T23:59:59.999999Z",
    "2024-01-01T00:00:00Z",
    "1500-01-01T00:00:00Z",
    "1100-01-01T00:00:00Z",
    "2262-06-01T00:00:00Z",
];

/// Conditions, and the numbers of the rows for which they are true.
const CONDITIONS: [(&str, &[i64]); 11] = [
    ("until < '9999-12-31'", &[1, 2, 3, 4, 5]),
    ("'9999-12-31' <= until", &[0]),
    ("until = TIMESTAMP '9999-12-31'", &[0]),
    ("until <> CAST('9999-12-31 00:00:00' AS TIMESTAMP)", &[1, 2, 3, 4, 5]),
    ("until IS DISTINCT FROM '9999-12-31T00:00:00Z'", &[1, 2, 3, 4, 5]),
    ("until = '9999-12-31T02:00:00+02:00'", &[0]),
    ("until > '9999-12-30 23:59:59.999998'", &[0, 1]),
    ("until BETWEEN '1200-01-01' AND '2024-06-01'", &[2, 3]),
    ("until NOT BETWEEN '2024-01-01' AND '9999-12-30'", &[0, 1, 3, 4]),
    ("until IN ('9999-12-31', '2024-01-01', '1100-01-01')", &[0, 2, 4]),
    ("CASE WHEN until > '2262-05-01' THEN 'far' ELSE 'near' END = 'far' AND until > '2024-01-01'", &[0, 1, 5]),
];

#[test]
fn moments_before_1677_and_after_2262_are_compared_with_what_the_sql_names() {
    let workspace = Workspace::new();
    let rows = MOMENTS.iter().enumerate();
    let rows =
        rows.map(|(id, until)| format!("{{\"ts\":\"2024-05-01T00:00:00Z\",\"until\":\"{until}\",\"id\":{id}}}\n"));
    workspace.write("in.ndjson", rows.collect::<String>());
    let branches: Vec<(String, String)> = (0..)
        .zip(CONDITIONS)
        .map(|(number, (condition, _))| (format!("c{number}"), format!("SELECT id FROM events WHERE {condition}")))
        .collect();
    let transforms: Vec<_> = branches.iter().map(|(name, sql)| (&name[..], "", &sql[..])).collect();
    let outputs: Vec<_> = branches.iter().map(|(name, _)| (&name[..], &name[..])).collect();
    let columns = "[{name: ts, type: TIMESTAMP}, {name: until, type: TIMESTAMP}, {name: id, type: BIGINT}]";
    let pipeline = manifest::Pipeline {
        name: "far",
        checkpoints: "",
        more: "",
        events: &format!("file: {{paths: [in.ndjson]}}\n      format: {{json: {{}}}}\n      columns: {columns}"),
        transforms: &transforms,
        outputs: &outputs,
    };
    let sinks: String = branches
        .iter()
        .map(|(name, _)| manifest::sink(name, &format!("file: {{path: out/{name}, format: {{json: {{}}}}}}")))
        .collect();
    workspace.write("p.yaml", format!("{pipeline}{sinks}"));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    for (number, (condition, expected)) in CONDITIONS.iter().enumerate() {
        let found = read::folder(&workspace.join(format!("out/c{number}")));
        let mut found: Vec<i64> = found.column("id").map(millrace_tests::Cell::int).collect();
        found.sort_unstable();
        assert_eq!(found, *expected, "{condition}");
    }
}
