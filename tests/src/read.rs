//! Reading what sinks wrote, as any reader would: files whose names begin with `.` or `_` are not looked at.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use arrow::{array::RecordBatch, compute::concat_batches, util::display::array_value_to_string};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::{Cell, Row, Table};

/// The files below a folder that a reader looks at, with their sizes, sorted. A folder that is not there has none.
pub fn visible_files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    collect(folder, &|name| !name.starts_with(['.', '_']), &mut files);
    files.sort();
    files
}

/// All files below a folder, hidden ones too, with their sizes, sorted.
pub fn all_files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    collect(folder, &|_| true, &mut files);
    files.sort();
    files
}

/// Nothing is left in a folder that no reader looks at.
///
/// # Panics
///
/// With what is left.
pub fn expect_nothing_hidden(folder: &Path) {
    let (all, visible) = (all_files(folder), visible_files(folder));
    let hidden: Vec<&PathBuf> = all.iter().filter(|file| !visible.contains(file)).map(|(path, _)| path).collect();
    assert!(hidden.is_empty(), "left in {}: {hidden:?}", folder.display());
}

/// The files may be moved while this looks: what has gone between two looks is left out.
fn collect(folder: &Path, wanted: &impl Fn(&str) -> bool, files: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !wanted(&entry.file_name().to_string_lossy()) {
            continue;
        }
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => collect(&entry.path(), wanted, files),
            Ok(metadata) => files.push((entry.path(), metadata.len())),
            Err(_) => {}
        }
    }
}

/// The rows of all files of a folder: NDJSON, CSV or Parquet, as their names end.
pub fn folder(folder: &Path) -> Table {
    let mut table = Table::default();
    for (path, _) in visible_files(folder) {
        table.rows.extend(file(&path, folder).rows);
    }
    table
}

/// The rows of one file below `root`, with the columns that its folders' names say (`origin=JFK/`).
///
/// # Panics
///
/// If it cannot be read, or its name does not say what it is.
pub fn file(path: &Path, root: &Path) -> Table {
    let mut table = match path.extension().and_then(|extension| extension.to_str()) {
        Some("parquet") => Table::of_batches(&parquet_batches(path)),
        Some("csv") => csv_file(&text(path)),
        Some("json" | "ndjson" | "jsonl") => Table::of_json_lines(&text(path)),
        _ => panic!("{} is neither NDJSON nor CSV nor Parquet", path.display()),
    };
    let below = path.strip_prefix(root).unwrap_or(path);
    for (name, value) in below.iter().filter_map(|part| part.to_str()?.split_once('=')) {
        for row in &mut table.rows {
            row.insert(name.to_owned(), Cell::of_field(value));
        }
    }
    table
}

/// The rows of all Parquet files of a folder.
///
/// # Panics
///
/// If there is none, or one cannot be read.
pub fn parquet_batch(folder: &Path) -> RecordBatch {
    let batches: Vec<RecordBatch> = visible_files(folder).iter().flat_map(|(path, _)| parquet_batches(path)).collect();
    let schema = batches.first().unwrap_or_else(|| panic!("no rows in {}", folder.display())).schema();
    concat_batches(&schema, &batches).expect("all files have one schema")
}

/// Some columns of a file's rows, as text: of NDJSON whose objects are flat and have no commas in these columns, or of
/// Parquet, whose folder's name may say one (`origin=JFK/`). Much faster than [`file()`].
///
/// # Panics
///
/// If it cannot be read, or a row lacks a column.
pub fn identities(path: &Path, columns: &[String]) -> Vec<String> {
    if path.extension().is_some_and(|extension| extension == "parquet") {
        let of_folder = |name: &str| {
            let named = path.iter().find_map(|part| part.to_str()?.strip_prefix(name)?.strip_prefix('='));
            named.unwrap_or_else(|| panic!("no {name} in {}", path.display()))
        };
        let of_batch = |batch: &RecordBatch| -> Vec<String> {
            let columns: Vec<_> = columns.iter().map(|name| batch.column_by_name(name).ok_or(name)).collect();
            let shown = |row: usize| {
                columns.iter().map(move |column| match column {
                    Ok(column) => array_value_to_string(column, row).expect("a value can be shown"),
                    Err(name) => of_folder(name).to_owned(),
                })
            };
            (0..batch.num_rows()).map(|row| shown(row).collect::<Vec<_>>().join(" ")).collect()
        };
        return parquet_batches(path).iter().flat_map(of_batch).collect();
    }
    let of_line = |line: &str| -> String {
        let value = |name: &String| {
            let rest = line.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {line}")).1;
            rest.split([',', '}']).next().unwrap_or_default().trim().to_owned()
        };
        columns.iter().map(value).collect::<Vec<_>>().join(" ")
    };
    text(path).lines().map(of_line).collect()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn parquet_batches(path: &Path) -> Vec<RecordBatch> {
    let read = || -> Result<_, Box<dyn std::error::Error>> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()?;
        Ok(reader.collect::<Result<Vec<_>, _>>()?)
    };
    read().unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The first line names the columns.
fn csv_file(text: &str) -> Table {
    let mut records = csv_records(text).into_iter();
    let names = records.next().unwrap_or_default();
    let row = |fields: Vec<String>| -> Row {
        names.iter().cloned().zip(fields.iter().map(|field| Cell::of_field(field))).collect()
    };
    Table { rows: records.map(row).collect() }
}

fn csv_records(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            '\r' if !quoted => {}
            char => field.push(char),
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_hold_commas_quotes_and_line_ends() {
        let records = csv_records("a,b\n\"x,\"\"y\"\"\n\",2\n");
        assert_eq!(records, [vec!["a", "b"], vec!["x,\"y\"\n", "2"]]);
    }
}
