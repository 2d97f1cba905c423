//! What `make test` tries a second time on a cluster: only what a wait has given up, and never what is said of rows.

use std::process::Command;

use millrace_tests::{
    Workspace,
    workspace::{python, repository},
};

#[test]
fn only_what_a_wait_has_given_up_is_tried_again_and_never_what_is_said_of_rows() {
    let failures = [
        ("pods::late", "waited 60.1s in vain for the pod to be ready"),
        ("pods::rows", "waited 60.1s in vain for the rows of the second kill"),
        ("faults::lost", "assertion `left == right` failed: 3 rows are lost"),
        ("faults::late_and_lost", "waited 1.5s in vain for a Lease"),
        ("pods::otherwise", "the pod waited 3s in vain for nothing"),
    ];
    let mut log = "running 6 tests\ntest pods::well ... ok\n".to_owned();
    failures.iter().for_each(|(name, _)| log.push_str(&format!("test {name} ... FAILED\n")));
    log.push_str("test silent ... FAILED\n\nfailures:\n\n");
    let thread = |name: &str, words: &str| format!("thread '{name}' (7) panicked at tests/src/a.rs:1:2:\n{words}\n");
    for (name, words) in failures {
        log.push_str(&format!(
            "---- {name} stdout ----\n\nit says: waited 2s in vain for it\n{}\n",
            thread(name, words)
        ));
        if name == "faults::late_and_lost" {
            log.push_str(&thread("writer", "the oracle has another row"));
        }
    }
    log.push_str("\n\nfailures:\n    pods::late\n");
    let workspace = Workspace::new();
    workspace.write("log", &log);
    let output =
        Command::new(python()).arg(repository().join("scripts/late")).arg(workspace.join("log")).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "pods::late\n");
}
