//! Delta tables as an independent reader sees them: the `deltalake` package of Python, and DuckDB.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{
    Table,
    workspace::{cache, python, repository},
};

/// The rows of a table's newest version.
///
/// # Panics
///
/// If there is no table, or it cannot be read.
pub fn table(folder: &Path) -> Table {
    Table::of_json_lines(&run("table", &[folder]))
}

/// What a table's log says: the newest version's live files, and of each commit its operation and metadata.
///
/// # Panics
///
/// If there is no table, or it cannot be read.
pub fn log(folder: &Path) -> serde_json::Value {
    serde_json::from_str(&run("log", &[folder])).expect("the script prints JSON")
}

/// A table has no files but those that its log names.
///
/// # Panics
///
/// If it has others, or there is no table.
pub fn expect_no_orphans(folder: &Path) {
    let log = log(folder);
    assert_eq!(log["files"], log["live"], "{} has files that its log does not name", folder.display());
}

/// The rows that DuckDB answers a query with. It runs in `folder`. `tables` are names and paths: a gzipped file is a table of
/// its lines with the one column `line`, a folder is a Delta table.
///
/// # Panics
///
/// If the query fails.
pub fn duckdb(folder: &Path, query: &str, tables: &[(&str, &str)]) -> Table {
    let command = script().current_dir(folder).args(["duckdb", query]).args(assigned(tables)).output();
    Table::of_json_lines(&output("duckdb", command))
}

/// Checks that DuckDB answers both queries with the same rows, each as often. Faster than [`duckdb`] for many rows.
///
/// # Panics
///
/// With the first differences, or if a query fails.
#[track_caller]
pub fn expect_same(folder: &Path, found: &str, expected: &str, tables: &[(&str, &str)]) {
    let command = script().current_dir(folder).args(["compare", found, expected]).args(assigned(tables)).output();
    let differences = output("duckdb", command);
    assert!(differences.is_empty(), "{found}\nis not what is expected:\n{differences}");
}

fn assigned(tables: &[(&str, &str)]) -> Vec<String> {
    tables.iter().map(|(name, path)| format!("{name}={path}")).collect()
}

fn run(verb: &str, args: &[&Path]) -> String {
    output(verb, script().arg(verb).args(args).output())
}

fn output(what: &str, output: std::io::Result<std::process::Output>) -> String {
    let output =
        output.unwrap_or_else(|error| panic!("cannot start {}: {error}; try `make setup`", python().display()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed: {stderr}");
    String::from_utf8(output.stdout).expect("the script prints UTF-8")
}

fn script() -> Command {
    let mut command = Command::new(python());
    command.arg(repository().join("tests/python/read_table.py"));
    command
}

/// A reader of a Delta table that looks at every version as it comes, in a process of its own, and tells of rows that one
/// version has twice and of live files that are missing.
#[derive(Debug)]
pub struct Watch {
    child: Child,
}

impl Watch {
    /// Begins to read the table, which need not be there yet. `identity` are the columns in which no two rows agree.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(folder: &Path, identity: &[&str]) -> Self {
        let mut command = script();
        command.arg("watch").arg(folder).args(identity);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("cannot start {}: {error}", python().display())) }
    }

    /// Ends the reader. How many versions it has read, and what was wrong with them.
    ///
    /// # Panics
    ///
    /// If it failed.
    pub fn stop(mut self) -> (u64, Vec<String>) {
        drop(self.child.stdin.take());
        let stdout = self.child.stdout.take().expect("it was piped");
        let lines: Vec<String> = BufReader::new(stdout).lines().map_while(Result::ok).collect();
        let status = self.child.wait().expect("the child is ours");
        assert!(status.success(), "the reader of the Delta table failed: {lines:?}");
        let (count, wrong) = lines.split_last().expect("it says how many versions it has read");
        (count.parse().expect("a number"), wrong.to_vec())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder with the flights of 2013, a file a month; fetched from PyPI when it is not in the cache.
///
/// # Panics
///
/// If they cannot be fetched.
pub fn flights() -> PathBuf {
    let folder = cache().join("flights");
    let months = fs::read_dir(&folder).into_iter().flatten().flatten();
    if months.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "csv")).count() < 12 {
        let fetch = Command::new(python()).arg(repository().join("scripts/fetch-flights")).output();
        output("fetching the flights", fetch);
    }
    folder
}
