//! Bytes that are not those announced, kept aside for whoever wants to know what came instead.
//!
//! They are evidence, not products: the message itself is parked or in the failed store. So the room is bounded, and
//! the oldest evidence makes way.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::atomic::Draft;
use super::{SpoolError, make_directory};
use crate::message::ProductPath;

/// Longest part of a product's name in a quarantined file's name, in bytes.
const NAME_MAX: usize = 120;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Files.
    pub files: usize,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Bytes of one file; more are cut off.
    pub file_bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Room {
            files: 100,
            bytes: 256 << 20,
            file_bytes: 64 << 20,
        }
    }
}

/// The quarantine directory of one unit.
#[derive(Debug, Clone)]
pub struct Quarantine {
    directory: PathBuf,
    room: Room,
}

impl Quarantine {
    /// The quarantine in `directory`, which is made when the first bytes come.
    pub fn new(directory: &Path, room: Room) -> Quarantine {
        Quarantine {
            directory: directory.to_owned(),
            room,
        }
    }

    /// Copies what was fetched into `draft` aside, and with it a note on what was expected. Answers where. The draft
    /// is used up and its temporary file removed. Not synced: losing evidence loses no product. Blocks.
    pub fn keep(&self, mut draft: Draft, path: &ProductPath, note: &str) -> Result<PathBuf, SpoolError> {
        make_directory(&self.directory)?;
        let refused = |err| SpoolError::own(format!("cannot write into {}", self.directory.display()), err);
        self.make_room().map_err(refused)?;
        let kept = self.copy(draft.file(), path, note).map_err(refused)?;
        Ok(kept)
    }

    fn copy(&self, from: &mut File, path: &ProductPath, note: &str) -> io::Result<PathBuf> {
        let stamp = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!(
            "{:020}-{:08x}-{}",
            stamp.as_nanos(),
            fastrand::u32(..),
            plain(path.file_name())
        );
        let kept = self.directory.join(&name);
        let mut to = File::options().write(true).create_new(true).open(&kept)?;
        from.seek(SeekFrom::Start(0))?;
        io::copy(&mut from.take(self.room.file_bytes), &mut to)?;
        File::options()
            .write(true)
            .create_new(true)
            .open(self.directory.join(name + ".why"))?
            .write_all(note.as_bytes())?;
        Ok(kept)
    }

    /// Leaves room for one file more. Names begin with their time, so the smallest is the oldest.
    fn make_room(&self) -> io::Result<()> {
        let mut files: Vec<(PathBuf, u64)> = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.path().extension().is_none_or(|extension| extension != "why") {
                files.push((entry.path(), entry.metadata().map_or(0, |metadata| metadata.len())));
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        let mut left = files.len();
        for (path, size) in files {
            if left < self.room.files && bytes + self.room.file_bytes <= self.room.bytes {
                break;
            }
            fs::remove_file(&path)?;
            let mut why = path.into_os_string();
            why.push(".why");
            // Perhaps the process was killed before it wrote the note.
            let _ = fs::remove_file(why);
            (left, bytes) = (left - 1, bytes - size);
        }
        Ok(())
    }
}

/// A name that is safe in any directory and on any terminal, and is no note.
fn plain(name: &[u8]) -> String {
    let name = &name[..name.len().min(NAME_MAX)];
    let mut plain: String = name
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' => char::from(*byte),
            _ => '_',
        })
        .collect();
    if plain.ends_with(".why") {
        plain.push('_');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::super::Durability;
    use super::super::atomic::Tree;
    use super::*;

    #[test]
    fn the_oldest_evidence_makes_way_and_the_draft_goes() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&dir.path().join("out"), true, Durability::Crash).unwrap();
        let room = Room {
            files: 3,
            bytes: 100,
            file_bytes: 10,
        };
        let quarantine = Quarantine::new(&dir.path().join("state/quarantine"), room);
        let mut kept = Vec::new();
        for n in 0..5 {
            let mut draft = tree.create(b"a/x").unwrap();
            write!(draft, "{n}: more than ten bytes").unwrap();
            kept.push(
                quarantine
                    .keep(draft, &"a/../\u{7}x.why".into(), "announced 5 bytes")
                    .unwrap(),
            );
        }
        let mut files: Vec<_> = fs::read_dir(dir.path().join("state/quarantine")).unwrap().collect();
        assert_eq!(files.len(), 6, "three and their notes");
        assert!(!kept[1].exists() && kept[2].exists());
        assert_eq!(fs::read(&kept[4]).unwrap(), b"4: more th");
        assert!(kept[4].to_str().unwrap().ends_with("-_x.why_"));
        files.clear();
        assert_eq!(fs::read_dir(tree.root().join("a")).unwrap().count(), 0);
    }
}
