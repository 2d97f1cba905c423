//! Values as the text that partition folders and Delta logs have.

use arrow::{array::ArrayRef, error::ArrowError, util::display::FormatOptions};

use crate::file_sink::{Column, Values, write_value};

/// The text of a row's partition values; `None`: null. An empty string cannot be told from null in a folder's name nor in
/// a Delta log, so it is null.
pub(super) fn partition_values(keys: &[ArrayRef], row: usize) -> Result<Vec<Option<String>>, ArrowError> {
    let options = FormatOptions::new();
    let mut out = Vec::new();
    keys.iter()
        .map(|key| {
            let column = Column::of(key, &options)?;
            if column.is_null(row) {
                return Ok(None);
            }
            if let Values::Utf8(values) = &column.values {
                return Ok(Some(values.value(row).to_owned()).filter(|text| !text.is_empty()));
            }
            out.clear();
            write_value(&column, row, &mut out)?;
            Ok(Some(String::from_utf8_lossy(&out).trim_matches('"').to_owned()))
        })
        .collect()
}
