//! A source that is moved: replay points at other rows of its files.
//!
//! A place has to be one at which a row begins, so that no half of a row is read. What is not asked for stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    path::Path,
};

use millrace_crds::{Compression, FilePositionSpec};

use super::{
    catalog::{Catalog, Point, unique},
    parquet,
    place::Place,
    reader::failed,
    stream::Stream,
};
use crate::{ReplayPoint, SourceError, SplitId, format::unusable};

impl Catalog {
    /// The replay points of a checkpoint, with those of these files elsewhere.
    pub(super) fn moved(
        &self,
        files: &[FilePositionSpec],
        is_parquet: bool,
        restored: BTreeMap<SplitId, ReplayPoint>,
    ) -> Result<BTreeMap<SplitId, ReplayPoint>, SourceError> {
        let listed = self.list(false)?;
        let mut points = restored;
        for FilePositionSpec { path, offset } in files {
            let path = Path::new(path);
            if !listed.iter().any(|file| file.path == path) {
                return Err(unusable(format!("the source reads no file {}", path.display())));
            }
            match is_parquet {
                true => expect_row_of_parquet(path, *offset)?,
                false => expect_row(path, self.spec().compression, *offset)?,
            }
            let identity = self.identify(path).map_err(|error| failed(path.display().to_string(), error))?;
            let mut known = None;
            for (id, point) in &points {
                let point = Point::read(id, point)?;
                if (point.identity.device, point.identity.inode) == (identity.device, identity.inode) {
                    known = Some(id.clone());
                }
            }
            let id = known.unwrap_or_else(|| {
                let mut ids: BTreeSet<_> = points.keys().map(|id| id.0.clone()).collect();
                unique(path, &mut ids)
            });
            points.insert(id, Point::new(path.to_owned(), identity, Place::at(*offset), false).write());
        }
        Ok(points)
    }
}

/// Refuses a place at which no row begins: a row's first byte follows a line feed.
fn expect_row(path: &Path, compression: Compression, offset: u64) -> Result<(), SourceError> {
    let Some(before) = offset.checked_sub(1) else { return Ok(()) };
    let shown = path.display();
    match byte_at(path, compression, before).map_err(|error| failed(shown.to_string(), error))? {
        Some(b'\n') => Ok(()),
        Some(_) => Err(unusable(format!("no row of {shown} begins at byte {offset}: the byte before it ends none"))),
        None => Err(unusable(format!("{shown} has fewer than {offset} bytes"))),
    }
}

fn byte_at(path: &Path, compression: Compression, place: u64) -> io::Result<Option<u8>> {
    let opened = Stream::open_at(path, compression, false, Place::at(place))?;
    let Some((mut stream, _)) = opened else { return Ok(None) };
    let mut byte = [0];
    Ok((stream.read(&mut byte)? == 1).then_some(byte[0]))
}

fn expect_row_of_parquet(path: &Path, row: u64) -> Result<(), SourceError> {
    match parquet::rows(path)? {
        rows if row <= rows => Ok(()),
        rows => Err(unusable(format!("{} has {rows} rows, and none with the number {row}", path.display()))),
    }
}
