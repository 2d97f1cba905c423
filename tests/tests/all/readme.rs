//! What README.md and docs/getting-started.md tell a reader to do, done from their own text.

use std::{collections::BTreeMap, ffi::OsStr, fs, os::unix::fs::symlink, path::Path};

use millrace_tests::{
    Deadline, Millrace, Running, Table, Workspace, delta,
    manifest::edited,
    process,
    workspace::{python, repository, unpacked},
};

/// A part of a document: from a heading to the next one.
struct Section(String);

impl Section {
    fn of(document: &str, heading: &str) -> Self {
        let text = fs::read_to_string(repository().join(document)).unwrap();
        let begins = format!("\n## {heading}\n");
        let (_, rest) = text.split_once(&begins).unwrap_or_else(|| panic!("{document} has no section {heading:?}"));
        Self(rest.split("\n## ").next().unwrap_or_default().to_owned())
    }

    /// Its first block of code in a language.
    fn block(&self, language: &str) -> &str {
        let block = self.0.split_once(&format!("```{language}\n")).and_then(|(_, rest)| rest.split_once("```"));
        block.unwrap_or_else(|| panic!("no {language} in {:?}", self.0)).0
    }

    /// The code in a line of text that begins like this.
    fn inline(&self, begins: &str) -> &str {
        let code = self.0.split('`').skip(1).step_by(2).find(|code| code.starts_with(begins));
        code.unwrap_or_else(|| panic!("no `{begins}…` in {:?}", self.0))
    }
}

/// A shell that runs these lines in a workspace and becomes what the last one starts. `millrace` is on its path.
fn shell(workspace: &Workspace, lines: &str) -> Millrace {
    let bin = workspace.join(".bin");
    if !bin.exists() {
        fs::create_dir(&bin).unwrap();
        symlink(std::path::absolute(process::binary()).unwrap(), bin.join("millrace")).unwrap();
    }
    let (before, last) = lines.trim_end().rsplit_once('\n').unwrap_or(("", lines.trim_end()));
    let script = format!("{before}\nexec {last}");
    let path = std::env::var("PATH").unwrap();
    let no_more: [&OsStr; 0] = [];
    Millrace::wrapped(workspace, &["sh", "-ec", &script], no_more).env("PATH", &format!("{}:{path}", bin.display()))
}

/// A file of the workspace with something else in it.
#[track_caller]
fn edit(workspace: &Workspace, file: &str, from: &str, to: &str) {
    let text = fs::read_to_string(workspace.join(file)).unwrap();
    workspace.write(file, edited(&text, from, to));
}

fn wait_for(running: &Running, what: &str) {
    let found = Deadline::secs(60).poll(|| running.stderr().contains(what).then_some(()));
    assert!(found.is_some(), "waited in vain for {what:?}: {}{}", running.stdout(), running.stderr());
}

/// Waits until a Delta table has so many files, and reads it.
fn table_of(folder: &Path, files: usize) -> Table {
    let added = || -> usize {
        let log = fs::read_dir(folder.join("_delta_log")).into_iter().flatten().flatten().map(|entry| entry.path());
        let commits = log.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        commits.map(|path| fs::read_to_string(path).unwrap().matches("{\"add\":").count()).sum()
    };
    Deadline::secs(60).wait_for("the rows in the Delta table", || (added() >= files).then_some(()));
    delta::table(folder)
}

#[test]
fn what_the_readme_shows_runs_and_takes_up_an_edit() {
    let section = Section::of("README.md", "What it looks like");
    let workspace = Workspace::new();
    assert!(section.0.contains("Saved as `web.yaml`"));
    workspace.write("web.yaml", section.block("yaml"));
    let running = shell(&workspace, section.block("sh")).start();
    let lake = workspace.join("lake/tenant_errors");
    let first = "{\"tenant\": \"acme\", \"window_start\": \"2024-05-01T12:00:00Z\", \"errors\": 1, \"p99\": 87.5}\n";
    table_of(&lake, 1).expect_same(&Table::of_json_lines(first), "the window that the second line closes");
    assert!(running.stdout().contains("web-errors: ok"), "what was checked is told: {}", running.stdout());
    assert!(running.stdout().contains("keeps status >= 500"), "the plan is shown: {}", running.stdout());

    edit(&workspace, "web.yaml", "status >= 500", "status >= 400");
    wait_for(&running, "edit taken up");
    workspace.append(
        "logs/a.ndjson",
        "{\"ts\": \"2024-05-01T12:05:30Z\", \"tenant\": \"acme\", \"status\": 404, \"latency_ms\": 3.5}\n\
         {\"ts\": \"2024-05-01T12:07:00Z\", \"tenant\": \"acme\", \"status\": 200, \"latency_ms\": 1.0}\n",
    );
    let second = "{\"tenant\": \"acme\", \"window_start\": \"2024-05-01T12:05:00Z\", \"errors\": 1, \"p99\": 3.5}\n";
    table_of(&lake, 2).expect_same(&Table::of_json_lines(&[first, second].concat()), "what the edit lets through, too");
    running.signal("INT");
    running.wait().expect_success().expect_stderr(&["stopped"]);
}

/// The rows among what was written to the standard output.
fn rows(stdout: &str) -> Table {
    let rows: Vec<&str> = stdout.lines().filter(|line| line.starts_with('{')).collect();
    Table::of_json_lines(&rows.join("\n"))
}

#[test]
fn what_getting_started_shows_runs_goes_on_and_takes_up_edits() {
    let document = "docs/getting-started.md";
    let own = Section::of(document, "A pipeline of your own");
    let workspace = Workspace::new();
    assert!(own.block("yaml").starts_with("# levels.yaml\n"));
    workspace.write("levels.yaml", own.block("yaml"));
    let finished = shell(&workspace, own.block("sh")).finish().expect_success();
    let row = "{\"level\": \"info\", \"window_start\": \"2024-05-06T08:00:00Z\", \"lines\": 3, \"longest\": 7}\n";
    rows(&finished.stdout).expect_same(&Table::of_json_lines(row), "the lines by level");
    let again = own.block("sh").lines().last().unwrap();
    let finished = shell(&workspace, again).finish().expect_success();
    assert!(rows(&finished.stdout).is_empty(), "it has nothing left to do: {}", finished.stdout);

    let change = Section::of(document, "Change it while it runs");
    edit(&workspace, "levels.yaml", "file: {paths: [app.log]}", change.inline("file: {paths"));
    let running = shell(&workspace, change.block("sh")).start();
    wait_for(&running, "running revision");
    shell(&workspace, change.inline("echo ")).finish().expect_success();
    workspace.write("new.yaml", fs::read(workspace.join("levels.yaml")).unwrap());
    edit(&workspace, "new.yaml", "size: 10s", change.inline("size: "));
    let plan = shell(&workspace, change.inline("millrace plan")).finish().expect_success();
    assert!(plan.stdout.contains("taken up at a checkpoint barrier"), "{}", plan.stdout);
    fs::rename(workspace.join("new.yaml"), workspace.join("levels.yaml")).unwrap();
    wait_for(&running, "edit taken up");
    // Closes the window of the line that came late.
    workspace.append("app.log", "ts=2024-05-06T08:01:00Z level=info msg=\"\"\n");
    let warned = Deadline::secs(60).poll(|| running.stdout().contains("warn").then(|| running.stdout()));
    let warned = warned.unwrap_or_else(|| panic!("no row: {}", running.stderr()));
    let row = "{\"level\": \"warn\", \"window_start\": \"2024-05-06T08:00:20Z\", \"lines\": 1, \"longest\": 4}\n";
    rows(&warned).expect_same(&Table::of_json_lines(row), "the line that was appended");
    running.signal("INT");
    running.wait().expect_success();
}

/// A flight, as far as the demo counts it. All times are New York's.
struct Flight {
    day: u32,
    hour: u32,
    carrier: String,
    origin: String,
    /// In minutes; `None`: cancelled.
    delay: Option<f64>,
}

fn flights() -> Vec<Flight> {
    let text = unpacked("examples/flights/flights-2013-01.csv.gz");
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name: &str| header.iter().position(|column| *column == name).unwrap();
    let [day, hour, carrier, origin, delay] = ["day", "hour", "carrier", "origin", "dep_delay"].map(column);
    lines
        .map(|fields| Flight {
            day: fields[day].parse().unwrap(),
            hour: fields[hour].parse().unwrap(),
            carrier: fields[carrier].to_owned(),
            origin: fields[origin].to_owned(),
            delay: fields[delay].parse().ok(),
        })
        .collect()
}

/// What is shown of some flights.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    flights: u32,
    delayed: u32,
    cancelled: u32,
    minutes: f64,
}

impl Count {
    /// The flights by what `key` says of them.
    fn by<K: Ord>(flights: &[Flight], key: impl Fn(&Flight) -> K) -> BTreeMap<K, Self> {
        let mut counts: BTreeMap<K, Self> = BTreeMap::new();
        for flight in flights {
            let count = counts.entry(key(flight)).or_default();
            count.flights += 1;
            count.delayed += u32::from(flight.delay.is_some_and(|minutes| minutes > 15.0));
            count.cancelled += u32::from(flight.delay.is_none());
            count.minutes += flight.delay.unwrap_or_default();
        }
        counts
    }

    fn percent_delayed(&self) -> f64 {
        f64::from(self.delayed) * 100.0 / f64::from(self.flights)
    }

    fn mean_minutes(&self) -> f64 {
        self.minutes / f64::from((self.flights - self.cancelled).max(1))
    }
}

/// Those with the greatest share of delayed flights, from the greatest.
fn most_delayed<K>(counts: BTreeMap<K, Count>, most: usize) -> Vec<(K, Count)> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|(_, one), (_, other)| other.percent_delayed().total_cmp(&one.percent_delayed()));
    counts.truncate(most);
    counts
}

/// A number that is shown with some digits is the one that was computed.
fn expect_shown(shown: &str, unit: f64, computed: f64) {
    let number: f64 = shown.trim_end_matches('%').parse().unwrap_or_else(|_| panic!("{shown} is no number"));
    assert!((number - computed).abs() <= unit / 2.0 + 1e-6, "{shown} is shown, and {computed} would be right");
}

/// The words of the lines of a table: those after an empty line that follows a line with this heading.
fn table_in<'a>(shown: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let below = shown.split_once(heading).unwrap_or_else(|| panic!("no {heading:?} in {shown}")).1;
    let lines = below.lines().skip(1).skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty());
    lines.map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn the_demo_shows_what_the_flights_come_to() {
    // A checkout of its own, as far as the demo looks at it.
    let workspace = Workspace::new();
    fs::create_dir(workspace.join("scripts")).unwrap();
    for script in ["demo", "show-flights"] {
        fs::copy(repository().join("scripts").join(script), workspace.join("scripts").join(script)).unwrap();
    }
    let script = workspace.join("scripts/demo");
    let no_more: [&OsStr; 0] = [];
    let demo = Millrace::wrapped(&workspace, &[script.to_str().unwrap()], no_more)
        .env("MILLRACE", std::path::absolute(process::binary()).unwrap().to_str().unwrap())
        .env("PYTHON", python().to_str().unwrap());
    let shown = demo.finish().expect_success().stdout;

    let flights = flights();
    let days = most_delayed(Count::by(&flights, |flight| flight.day), 5);
    let lines = table_in(&shown, "The days with the most delays");
    assert_eq!(lines.len(), 1 + days.len(), "{shown}");
    for (line, (day, count)) in lines[1..].iter().zip(days) {
        // The year began with a Tuesday.
        let weekday = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][day as usize % 7];
        assert_eq!(line[..3], [weekday, &format!("{day:02}"), "Jan"]);
        assert_eq!(line[3..6], [count.flights, count.delayed, count.cancelled].map(|count| count.to_string()));
        expect_shown(line[6], 0.1, count.mean_minutes());
        expect_shown(line[8], 1.0, count.percent_delayed());
    }

    let mut carriers = Count::by(&flights, |flight| flight.carrier.clone());
    carriers.retain(|_, count| count.flights >= 100);
    let carriers = most_delayed(carriers, 8);
    let lines = table_in(&shown, "The airlines, by share of flights");
    assert_eq!(lines.len(), 1 + carriers.len(), "{shown}");
    assert_eq!((carriers[0].0.as_str(), lines[1][0]), ("EV", "ExpressJet"));
    for (line, (_, count)) in lines[1..].iter().zip(carriers) {
        let minutes = line.iter().position(|word| *word == "min").unwrap();
        assert_eq!(line[minutes - 2], count.flights.to_string(), "{line:?}");
        expect_shown(line[minutes + 1], 1.0, count.percent_delayed());
    }

    let mut airports: BTreeMap<String, f64> = BTreeMap::new();
    for ((origin, _), count) in Count::by(&flights, |flight| (flight.origin.clone(), flight.hour)) {
        let worst = airports.entry(origin).or_default();
        *worst = worst.max(count.mean_minutes());
    }
    let lines = table_in(&shown, "The day at each airport");
    assert_eq!(lines.len(), airports.len(), "{shown}");
    for (line, (origin, worst)) in lines.iter().zip(airports) {
        assert_eq!(line[0], origin);
        expect_shown(line[line.len() - 2], 1.0, worst);
    }

    assert_eq!(flights.len(), 27_004);
    let (counted, agree) = ("27,004 flights in the input, 27,004 counted in the Delta table", "they agree");
    assert!(shown.contains(counted) && shown.contains(agree), "{shown}");
}
