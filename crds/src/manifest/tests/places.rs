use expect_test::expect;

use super::*;

/// Where each word of a SELECT is found, as `line:column text`.
fn words(sql: &str) -> String {
    let text = with(&format!(
        "  sources: [{{name: a, stdin: {{}}, format: {{json: {{}}}}, columns: [{{name: x, type: INT}}]}}]\n  transforms:\n    - name: b\n      sql: {sql}\n  outputs: [{{from: b, sink: out}}]"
    ));
    let (manifests, problems) = read(&[("a.yaml", &text)]);
    assert_eq!(problems, []);
    let pipeline = &manifests.pipelines[0];
    let path = "spec.transforms[0].sql";
    let sql = &pipeline.value.spec.transforms[0].sql;
    let mut found = Vec::new();
    for (line, text_line) in sql.lines().enumerate() {
        for (column, _) in text_line
            .char_indices()
            .filter(|(at, c)| !c.is_whitespace() && (*at == 0 || text_line[..*at].ends_with(' ')))
        {
            let problem = pipeline.problem_in(path, line + 1, column + 1, Complaint::new("here"));
            found.push(format!("{}:{} {}", problem.line, problem.column, problem.offending.unwrap()));
        }
    }
    found.join(", ")
}

#[test]
fn a_place_in_sql_is_found_whatever_the_text_is_written_as() {
    expect!["8:12 SELECT, 8:19 x, 8:21 FROM, 8:26 a"].assert_eq(&words("SELECT x FROM a"));
    expect!["8:12 SELECT, 8:19 x, 9:11 FROM, 11:9 a"].assert_eq(&words("SELECT x\n          FROM\n\n        a"));
    expect!["9:9 SELECT, 9:16 x, 10:11 FROM, 10:16 a"].assert_eq(&words("|\n        SELECT x\n          FROM a"));
    expect!["9:9 SELECT, 9:16 x, 11:9 FROM, 11:14 a"]
        .assert_eq(&words(">- # folded\n        SELECT x\n\n        FROM a"));
    expect!["8:13 SELECT, 8:20 ', 9:9 FROM, 9:14 a"].assert_eq(&words("'SELECT ''x''\n        FROM a'"));
    expect![[r#"8:13 SELECT, 8:20 \, 8:30 FROM, 9:12 a"#]]
        .assert_eq(&words("\"SELECT \\\"\\x41\\\"\\nFROM\\\n        \\  a\""));
}

#[test]
fn a_field_that_is_not_set_is_placed_where_it_belongs() {
    let text =
        with("  sources: [{name: a, generator: {nexmark: {stream: Bid}}}]\n  outputs:\n    - from: a\n      sink: out");
    let (manifests, problems) = read(&[("a.yaml", &text)]);
    assert_eq!(problems, []);
    let pipeline = &manifests.pipelines[0];
    assert_eq!(pipeline.place("spec.outputs[0].sink"), Position { line: 8, column: 13 });
    assert_eq!(pipeline.place("spec.outputs[0].sink.deeper[3]"), Position { line: 8, column: 13 });
    assert_eq!(pipeline.place("spec.outputs[7].sink"), Position { line: 6, column: 3 });
    assert_eq!(pipeline.place("spec.parallelism"), Position { line: 4, column: 1 });
    assert_eq!(pipeline.place("nowhere"), Position { line: 4, column: 1 });
    assert_eq!(pipeline.place_in("spec.outputs[0].from", 99, 99), Position { line: 7, column: 14 });
}
