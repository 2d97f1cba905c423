//! The command line as a person meets it: exit codes, errors with their places, help.

use std::{fmt::Write, process::Command};

use expect_test::expect_file;
use millrace_tests::{Millrace, Workspace, read, workspace::repository};

const COMMANDS: [&str; 13] = [
    "",
    "run",
    "worker",
    "check",
    "plan",
    "checkpoints list",
    "checkpoints inspect",
    "checkpoints verify",
    "checkpoints savepoint",
    "checkpoints repair",
    "checkpoints delete",
    "schema",
    "completions",
];

#[test]
fn a_bad_manifest_gets_all_its_errors_at_once_and_nothing_is_started() {
    let workspace = Workspace::new();
    workspace.write(
        "bad.yaml",
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: bad}
spec:
  sources:
    - name: t
      file: {paths: [in.ndjson]}
      stdin: {}
      format: {json: {}}
      columns:
        - {name: ts, type: TIMESTAMPP}
        - {name: tenant, type: VARCHAR}
      eventTime: {column: ts, maxOutOfOrderness: 5 parsecs}
      onErorr: Drop
  transforms:
    - {name: a, window: nowhere, sql: SELECT tenent FROM t}
    - {name: b, sql: SELEC tenant FROM t}
  outputs:
    - {from: a, sink: missing}
",
    );
    let finished = Millrace::run(&workspace, "bad.yaml").finish().expect_code(2);
    let said = finished.expect_stderr(&[
        "bad.yaml:",
        "TIMESTAMPP",
        "5 parsecs",
        "onErorr",
        "onError",
        "stdin",
        "missing",
        "nowhere",
    ]);
    assert!(!workspace.join("data").exists(), "nothing was started: {}", said.stderr);
}

#[test]
fn a_column_that_does_not_exist_is_told_with_its_place_and_those_that_do() {
    let workspace = Workspace::new();
    workspace.write(
        "p.yaml",
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: p}
spec:
  sources:
    - name: t
      file: {paths: [in.ndjson]}
      format: {json: {}}
      columns: [{name: tenant, type: VARCHAR}, {name: status, type: INT}]
  transforms:
    - name: a
      sql: |
        SELECT tenant
        FROM t WHERE stauts >= 500
  outputs:
    - {from: a, sink: out}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {name: out}
spec:
  stdout: {}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: somebody-elses}
",
    );
    let finished = Millrace::new(&workspace, ["check", "-f", "p.yaml"]).finish().expect_code(2);
    finished.expect_stderr(&["p.yaml:14:22", "stauts", "status", "tenant", "ConfigMap"]);
}

/// A pipeline that prints the file's rows, in a manifest with this source.
fn printing(file: &str) -> String {
    format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: p}}
spec:
  sources:
    - name: t
      file: {{{file}}}
      format: {{json: {{}}}}
      columns: [{{name: n, type: INT}}]
  outputs:
    - {{from: t, sink: out}}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {{name: out}}
spec:
  stdout: {{}}
"
    )
}

#[test]
fn a_path_that_no_file_matches_is_a_warning_of_the_check() {
    let workspace = Workspace::new();
    let checked = |file: &str| {
        workspace.write("p.yaml", printing(file));
        Millrace::new(&workspace, ["check", "-f", "p.yaml"]).finish().expect_success()
    };
    let paths = "paths: [\"logs/*.ndjson\", in.ndjson]";
    let both = checked(paths);
    both.expect_stderr(&["p.yaml:7:22", "p.yaml:7:39", "no file matches this here"]);
    checked(&format!("{paths}, follow: true")).expect_stderr(&["no file matches this yet"]);
    workspace.write("in.ndjson", "");
    let one = checked(paths);
    assert_eq!(one.stderr.matches("no file matches").count(), 1, "{}", one.stderr);
    workspace.write("logs/a.ndjson", "");
    let none = checked(paths);
    assert!(!none.stderr.contains("no file matches"), "{}", none.stderr);
}

#[test]
fn printed_rows_are_counted_and_the_last_checkpoint_says_why_it_was_taken() {
    let workspace = Workspace::new();
    workspace.write("p.yaml", printing("paths: [in.ndjson]"));
    workspace.write("in.ndjson", "{\"n\": 1}\n{\"n\": 2}\n{\"n\": 3}\n");
    let ran = Millrace::new(&workspace, ["run", "-f", "p.yaml", "--data-dir", "data"]).finish().expect_success();
    assert_eq!(ran.stdout.lines().count(), 3, "{}", ran.stdout);
    ran.expect_stderr(&["rows=3", "kind=\"end of input\""]);
}

#[test]
fn every_example_passes_the_check_and_has_a_plan() {
    let workspace = Workspace::new();
    let examples = workspace.join("examples");
    for (path, _) in read::visible_files(&examples) {
        if path.extension().is_none_or(|extension| extension != "yaml")
            || path.ends_with("window.yaml")
            || path.ends_with("sinks.yaml")
        {
            continue;
        }
        let path = if path.parent().unwrap().ends_with("nexmark") { &path } else { path.parent().unwrap() };
        let path = path.to_str().unwrap();
        Millrace::new(&workspace, ["check", "-f", path]).finish().expect_success();
        let plan = Millrace::new(&workspace, ["plan", "-f", path]).finish().expect_success();
        assert!(plan.stdout.lines().count() > 2, "{path}: {}", plan.stdout);
    }
}

#[test]
fn help_has_examples_and_an_unknown_command_exits_with_2() {
    let workspace = Workspace::new();
    let mut all = String::new();
    for command in COMMANDS {
        let words = command.split_whitespace();
        let help = Millrace::new(&workspace, words.chain(["--help"])).finish().expect_success().stdout;
        assert!(help.contains("Example"), "{command}: {help}");
        assert!(!help.contains('\u{1b}'), "no colours where NO_COLOR is set");
        let mut prose = help.lines().filter(|line| !line.starts_with("Usage:"));
        assert!(prose.all(|line| line.chars().count() <= 120), "{command}: {help}");
        let _ = writeln!(all, "==== millrace {command} --help\n{help}");
    }
    expect_file!["golden/help.txt"].assert_eq(&all);
    Millrace::new(&workspace, ["walk"]).finish().expect_code(2);
    Millrace::run(&workspace, "nowhere.yaml").finish().expect_code(2).expect_stderr(&["nowhere.yaml"]);
}

#[test]
fn every_manifest_that_cannot_be_read_is_told() {
    let workspace = Workspace::new();
    std::fs::create_dir(workspace.join("empty")).unwrap();
    let check = ["check", "-f", "nowhere.yaml", "-f", "examples/hopping", "-f", "empty", "-f", "gone.yaml"];
    let told = Millrace::new(&workspace, check).finish().expect_code(2).stderr;
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told.len(), 3, "{told:?}");
    for (line, path) in told.iter().zip(["nowhere.yaml", "empty", "gone.yaml"]) {
        assert!(line.starts_with(&format!("error: cannot read {path}: ")), "{line}");
    }
}

#[test]
fn manifests_come_from_standard_input_too() {
    let workspace = Workspace::new();
    let manifest = std::fs::File::open(workspace.join("examples/hopping/pipeline.yaml")).unwrap();
    Millrace::new(&workspace, ["run", "-f", "-", "--data-dir", "data"]).stdin(manifest).finish().expect_success();
    assert!(!read::visible_files(&workspace.join("out/hopping/popular")).is_empty());
}

#[test]
fn checkpoints_are_listed_and_inspected() {
    let workspace = Workspace::new();
    Millrace::run(&workspace, "examples/hopping").finish().expect_success();
    let list = Millrace::new(&workspace, ["checkpoints", "list", "--data-dir", "data"]).finish().expect_success();
    assert!(list.stdout.lines().count() >= 2, "{}", list.stdout);
}

#[test]
fn completions_are_scripts_that_their_shells_take() {
    let workspace = Workspace::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = Millrace::new(&workspace, ["completions", shell]).finish().expect_success().stdout;
        for word in ["savepoint", "allow-previous-checkpoint", "log-format"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        let path = workspace.write(format!("millrace.{shell}"), &script);
        in_shell(shell, &["-n", path.to_str().unwrap()]);
    }
    // What a person gets who presses Tab: each shell is asked in its own way.
    let asked = [
        (
            "bash",
            "source millrace.bash; COMP_WORDS=(millrace checkpoints re); COMP_CWORD=2; _millrace millrace re checkpoints; echo \"${COMPREPLY[@]}\"",
            "repair",
        ),
        ("fish", "source millrace.fish; complete -C 'millrace checkpoints re'", "repair\tMake anew"),
        ("fish", "source millrace.fish; complete -C 'millrace plan --out'", "--output\tThe form"),
        (
            "zsh",
            "autoload -U compinit; compinit -D -u; source ./millrace.zsh; echo \"$_comps[millrace]\"; whence -w _millrace",
            "_millrace\n_millrace: function",
        ),
    ];
    for (shell, script, answer) in asked {
        let script = format!("cd {}; {script}", workspace.path().display());
        let args: &[&str] = if shell == "zsh" { &["-f", "-c", &script] } else { &["-c", &script] };
        let said = in_shell(shell, args);
        assert!(said.contains(answer), "{shell}: {said}");
    }
}

/// What a shell says. `scripts/setup` installs it.
fn in_shell(shell: &str, args: &[&str]) -> String {
    let done = Command::new(shell).args(args).output().unwrap_or_else(|error| panic!("no {shell} here: {error}"));
    assert!(done.status.success(), "{shell}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn the_schema_is_what_the_golden_files_say() {
    let workspace = Workspace::new();
    for (args, golden) in [(&["schema"][..], "crds.yaml"), (&["schema", "--json"], "manifest.schema.json")] {
        let printed = Millrace::new(&workspace, args).finish().expect_success().stdout;
        let golden = std::fs::read_to_string(repository().join("crds/golden").join(golden)).unwrap();
        assert_eq!(printed, golden);
    }
}

/// A pipeline that copies the numbers of `in.ndjson`.
const NUMBERS: &str = "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: numbers}
spec:
  sources:
    - name: t
      file: {paths: [in.ndjson]}
      format: {json: {}}
      columns: [{name: n, type: INT}]
  transforms: [{name: a, sql: SELECT n FROM t}]
  outputs: [{from: a, sink: out}]
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {name: out}
spec:
  file: {path: out, format: {json: {}}}
";

#[test]
fn exit_codes_tell_success_from_failure_from_what_cannot_be_used() {
    let workspace = Workspace::new();
    workspace.write("p.yaml", NUMBERS);
    workspace.write("other.yaml", NUMBERS.replace("name: numbers", "name: others"));
    workspace.write("in.ndjson", "{\"n\":1}\n");
    let run = |data: &str, more: &[&str]| {
        let args = ["run", "-f", "p.yaml", "--data-dir", data];
        Millrace::new(&workspace, args.iter().chain(more)).finish()
    };
    run("data", &[]).expect_code(0);
    run("data", &[]).expect_code(0).expect_stderr(&["nothing is left to do"]);
    Millrace::new(&workspace, ["check", "-f", "p.yaml"]).finish().expect_code(0);

    workspace.write("in.ndjson", "{\"n\":\"one\"}\n");
    run("data-1", &[]).expect_code(1).expect_stderr(&["error:", "in.ndjson", "one", "help:"]);
    let other = ["run", "-f", "other.yaml", "--data-dir", "data"];
    Millrace::new(&workspace, other).finish().expect_code(2).expect_stderr(&["belongs to pipeline numbers"]);
    std::fs::remove_file(workspace.join("in.ndjson")).unwrap();
    run("data-2", &[]).expect_code(1).expect_stderr(&["no file matches `in.ndjson`"]);
    let savepoint = ["checkpoints", "savepoint", "--data-dir", "data"];
    Millrace::new(&workspace, savepoint).finish().expect_code(1).expect_stderr(&["no pipeline runs", "help:"]);

    let unusable: [(&[&str], &str); 9] = [
        (&["run", "-f", "-", "--watch"], "the manifests were read from the standard input (`-f -`)"),
        (&["run", "-f", "/dev/stdin", "--watch"], "were read from the standard input (`-f /dev/stdin`)"),
        (&["run", "-f", "p.yaml", "--data-dir", "data", "--parallelism", "0"], "--parallelism"),
        (&["run", "-f", "p.yaml", "--data-dir", "data", "--listen", "nowhere"], "--listen"),
        (&["run", "-f", "p.yaml", "-f", "other.yaml", "--data-dir", "data"], "expected each name once"),
        (&["check", "-f", "p.yaml", "--pipeline", "none"], "none"),
        (&["check", "-f", "p.yaml", "--log", "===="], "--log"),
        (&["checkpoints", "list", "--data-dir", "nowhere"], "no checkpoints in nowhere"),
        (&["checkpoints", "inspect", "--data-dir", "data", "99"], "there is no checkpoint 99"),
    ];
    for (args, said) in unusable {
        let manifest = std::fs::File::open(workspace.join("p.yaml")).unwrap();
        Millrace::new(&workspace, args).stdin(manifest).finish().expect_code(2).expect_stderr(&[said]);
    }
    let bash = ["bash", "-c", "exec \"$@\" -f <(cat p.yaml)", "bash"];
    let piped =
        Millrace::wrapped(&workspace, &bash, ["run", "--watch", "--data-dir", "data-3"]).finish().expect_code(2);
    piped.expect_stderr(&["`--watch` takes up edits of files, and /dev/fd/", "is none that can be read again"]);
    std::os::unix::fs::symlink("nothing", workspace.join("astray")).unwrap();
    std::os::unix::fs::symlink("round", workspace.join("round")).unwrap();
    for (data, said) in [
        ("p.yaml", "p.yaml is not a folder"),
        ("p.yaml/data", "p.yaml is not a folder"),
        ("astray", "astray is not a folder"),
        ("round", "cannot make the data folder round: Too many levels of symbolic links"),
        ("/proc/none/data", "cannot make the data folder /proc/none/data: No such file or directory"),
    ] {
        run(data, &[]).expect_code(2).expect_stderr(&[said]);
    }
    let worker = ["worker", "-n", "shop", "-p", "web", "--data-dir", "data-3"];
    let worker = || Millrace::new(&workspace, worker).env("KUBECONFIG", "/nonexistent").env("HOME", "/nonexistent");
    worker().finish().expect_code(2).expect_stderr(&["--pod-name", "--pod-uid"]);
    let of_pod = worker().env("POD_NAME", "web-0").env("POD_UID", "1").finish().expect_code(2);
    of_pod.expect_stderr(&["no way to an API server", "/nonexistent", "set KUBECONFIG"]);
    assert!(!workspace.join("data-3").exists());
}
