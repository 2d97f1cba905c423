//! Which paths a glob matches.
//!
//! `**` is any number of folders, none of them a symbolic link: so bash has it, and a link may lead in a circle. Last in a
//! glob it stands for all that is in them. Links that the rest of a glob names or matches are followed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use glob::{Pattern, PatternError};

/// Why the paths that a glob matches cannot be told.
#[derive(Debug)]
pub(super) enum Unlisted {
    /// It is none.
    NoGlob(PatternError),
    /// It leads through this path, which cannot be looked at.
    Unreadable(PathBuf, io::Error),
}

/// Every path that this glob matches; some may be there twice.
pub(super) fn matching(pattern: &str) -> Result<Vec<PathBuf>, Unlisted> {
    // As a whole first, since the parts have other places.
    Pattern::new(pattern).map_err(Unlisted::NoGlob)?;
    let mut found = Vec::new();
    expand(pattern, &mut found)?;
    Ok(found)
}

fn expand(pattern: &str, found: &mut Vec<PathBuf>) -> Result<(), Unlisted> {
    let Some((before, behind)) = at_folders(pattern) else {
        found.extend(listed(pattern)?);
        return Ok(());
    };
    let tops = if before.is_empty() { vec![PathBuf::new()] } else { listed(before)? };
    for top in tops {
        for folder in folders(top)? {
            let folder = match folder.to_str() {
                Some("") => String::new(),
                Some(folder) => format!("{}/", Pattern::escape(folder.trim_end_matches('/'))),
                // No glob is a match of what is no text.
                None => continue,
            };
            expand(&format!("{folder}{behind}"), found)?;
        }
    }
    Ok(())
}

fn listed(pattern: &str) -> Result<Vec<PathBuf>, Unlisted> {
    let unreadable = |error: glob::GlobError| Unlisted::Unreadable(error.path().to_owned(), error.into());
    glob::glob(pattern).map_err(Unlisted::NoGlob)?.collect::<Result<_, _>>().map_err(unreadable)
}

/// What stands before a glob's first `**`, and what behind it.
fn at_folders(pattern: &str) -> Option<(&str, &str)> {
    let (before, mut behind) = match pattern.strip_prefix("**") {
        Some(behind) if behind.is_empty() || behind.starts_with('/') => ("", behind),
        _ => {
            let at = pattern.match_indices("/**").map(|(at, _)| at);
            let is_whole = |at: &usize| matches!(pattern.as_bytes().get(at + 3), None | Some(b'/'));
            let at = at.into_iter().find(is_whole)?;
            (if at == 0 { "/" } else { &pattern[..at] }, &pattern[at + 3..])
        }
    };
    while let Some(rest) = behind.strip_prefix("/**").filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        behind = rest;
    }
    let behind = behind.trim_start_matches('/');
    Some((before, if behind.is_empty() { "*" } else { behind }))
}

/// The folders from this one on down.
fn folders(top: PathBuf) -> Result<Vec<PathBuf>, Unlisted> {
    let mut folders = vec![top];
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        let shown = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
        let entries = match fs::read_dir(shown) {
            Ok(entries) => entries,
            // A file, or gone meanwhile.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::NotFound) => continue,
            Err(error) => return Err(Unlisted::Unreadable(folder, error)),
        };
        for entry in entries {
            let unreadable = |error| Unlisted::Unreadable(folder.clone(), error);
            let entry = entry.map_err(unreadable)?;
            // The entry's own type, not that of what a link leads to.
            if entry.file_type().map_err(unreadable)?.is_dir() {
                folders.push(folder.join(entry.file_name()));
            }
        }
    }
    Ok(folders)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn any_folders_are_real_ones_so_that_links_lead_in_no_circle() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("in/a[1]/b/a")).unwrap();
        fs::create_dir_all(at("other")).unwrap();
        for file in ["in/x.log", "in/a[1]/x.log", "in/a[1]/b/x.log", "in/a[1]/b/a/y.log", "other/x.log"] {
            fs::write(at(file), "").unwrap();
        }
        symlink(".", at("in/loop")).unwrap();
        symlink("..", at("in/a[1]/loop")).unwrap();
        symlink("itself.log", at("in/itself.log")).unwrap();
        symlink(at("other"), at("in/linked")).unwrap();
        let matching = |pattern: &str| {
            let mut paths = matching(at(pattern).to_str().unwrap()).unwrap();
            paths.retain(|path| path.is_file());
            paths.sort();
            paths.dedup();
            let short = |path: &PathBuf| path.strip_prefix(folder.path()).unwrap().display().to_string();
            paths.iter().map(short).collect::<Vec<_>>()
        };
        let all = ["in/a[1]/b/a/y.log", "in/a[1]/b/x.log", "in/a[1]/x.log", "in/x.log"];
        for pattern in ["in/**/*.log", "in/**/**/*.log", "in/**", "in/**/**"] {
            assert_eq!(matching(pattern), all, "{pattern}");
        }
        assert_eq!(matching("in/**/b/**/*.log"), all[..2]);
        assert_eq!(matching("**/a/*"), all[..1]);
        assert_eq!(matching("in/**/x.log"), all[1..]);
        // A link that is named, or that something other than `**` matches, is followed.
        assert_eq!(matching("in/linked/**/*.log"), ["in/linked/x.log"]);
        assert_eq!(matching("in/l*/x.log"), ["in/linked/x.log", "in/loop/x.log"]);
        assert_eq!(matching("none/**/*.log"), [""; 0]);
        assert_eq!(matching("in/x.log/**/*.log"), [""; 0]);
    }

    #[test]
    fn a_glob_is_cut_at_its_first_folders() {
        for (pattern, parts) in [
            ("a/*.log", None),
            ("a**", None),
            ("**", Some(("", "*"))),
            ("**/x", Some(("", "x"))),
            ("/**/x", Some(("/", "x"))),
            ("/a/**/**/b/**/c", Some(("/a", "b/**/c"))),
            ("a/**", Some(("a", "*"))),
        ] {
            assert_eq!(at_folders(pattern), parts, "{pattern}");
        }
        let Err(Unlisted::NoGlob(error)) = matching("a/**/b[") else { panic!("no glob") };
        assert_eq!(error.pos, 6);
    }
}
