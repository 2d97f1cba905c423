//! What is said about bad manifests, as a person sees it.

#![allow(clippy::unwrap_used)]

mod bad;
mod hostile;
mod places;

use super::*;

/// All that is said about some manifests.
fn said(files: &[(&str, &str)]) -> String {
    let (manifests, problems) = read(files);
    let mut lines: Vec<String> = problems.iter().map(|problem| format!("{problem}\n")).collect();
    lines.extend(manifests.skipped.iter().map(|notice| format!("{notice}\n")));
    lines.join("\n")
}

/// A Pipeline with this spec, a Window and a Sink that it can name.
fn with(spec: &str) -> String {
    format!(
        "apiVersion: millrace.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: web}}\nspec:\n{spec}\n---\n\
         apiVersion: millrace.dev/v1alpha1\nkind: Window\nmetadata: {{name: minute}}\nspec: {{tumbling: {{size: 1m}}}}\n---\n\
         apiVersion: millrace.dev/v1alpha1\nkind: Sink\nmetadata: {{name: out}}\nspec: {{stdout: {{}}}}\n"
    )
}

#[test]
fn every_example_is_without_problems() {
    let mut folders = vec![std::path::PathBuf::from("../examples")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!files.is_empty());
    for (name, text) in &files {
        let folder = name.rsplit_once('/').unwrap().0;
        // One that is made of several files is read with them.
        let is_alone = text.contains("kind: Pipeline") && text.contains("kind: Sink");
        let together: Vec<_> =
            files.iter().filter(|(other, _)| other.starts_with(folder) && !is_alone || other == name).collect();
        let together: Vec<_> = together.into_iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let (_, problems) = read(&together);
        assert_eq!(problems, [], "{name}");
    }
}

#[test]
fn a_written_spec_is_read_as_the_same() {
    let text = with(
        "  sources:\n    - {name: a, file: {paths: [x], pollInterval: 1500ms}, format: {csv: {nullValue: NA}}, columns: [{name: t, type: TIMESTAMP}, {name: \"n\", type: \"DECIMAL(10,2)\", path: \"N 1\"}], eventTime: {column: t}}\n  transforms:\n    - {name: b, sql: \"SELECT 1 AS x\\nFROM a\", window: minute}\n  outputs: [{from: b, sink: out}]\n  checkpoints: {interval: 90s, memoryBudget: 10000000000}\n  deployment: {replicas: 2, resources: {limits: {cpu: 500m, memory: 1Gi}}, volume: {size: 10Gi}, template: {spec: {tolerations: []}}}",
    );
    let (manifests, problems) = read(&[("a.yaml", &text)]);
    assert_eq!(problems, []);
    let object = &manifests.pipelines[0].value;
    let written = serde_saphyr::to_string(object).unwrap();
    let (again, problems) = read(&[("a.yaml", text.replace(text.split("---\n").next().unwrap(), &written))]);
    assert_eq!(problems, [], "{written}");
    assert_eq!(again.pipelines[0].value, *object);
    let json = serde_json::to_value(&object.spec).unwrap();
    assert_eq!(json["checkpoints"]["interval"], "90s");
    assert_eq!(json["checkpoints"]["memoryBudget"], "10G");
    assert_eq!(serde_json::from_value::<crate::PipelineSpec>(json).unwrap(), object.spec);
}
