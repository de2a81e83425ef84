//! Where in memory the files of contenders lie.
//!
//! A file in the page cache stays where it is, so whoever has a bad place would have it in every run, while those that load
//! anew are placed anew.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use rustix::fs::{Advice, fadvise};

use super::slow_memory::SlowMemory;
use crate::process::Launch;

/// Has the page cache give up all files that are named on these command lines, and reads them in this order again, while
/// memory that is slow is held; returns that, to be held on.
///
/// A file that cannot be read, or that somebody else has mapped, stays as it is.
pub fn place_anew<'a>(launches: impl IntoIterator<Item = &'a Launch>) -> io::Result<SlowMemory> {
    let files = named(launches);
    files.iter().for_each(give_up);
    let slow = SlowMemory::find();
    files.iter().for_each(read);
    slow
}

/// The files that are named on command lines, or lie in folders that are, each once.
fn named<'a>(launches: impl IntoIterator<Item = &'a Launch>) -> Vec<PathBuf> {
    let paths = launches.into_iter().flat_map(|launch| launch.args.iter().map(PathBuf::from));
    let mut seen = BTreeSet::new();
    paths.flat_map(files).filter(|file| seen.insert(file.clone())).collect()
}

/// A file, or the files of a folder and of those in it.
fn files(path: PathBuf) -> Vec<PathBuf> {
    match fs::read_dir(&path) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).flat_map(files).collect(),
        Err(_) if path.is_file() => vec![path],
        Err(_) => vec![],
    }
}

fn give_up(path: &PathBuf) {
    // What is not on the disk yet is not given up.
    let _ = File::open(path).and_then(|file| {
        file.sync_data()?;
        Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
    });
}

fn read(path: &PathBuf) {
    let _ = File::open(path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::path::Path;
    use std::ptr::null_mut;
    use std::time::Duration;

    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;

    /// How many of its pages are in the page cache.
    fn n_cached(path: &Path) -> usize {
        let file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len() as usize;
        // SAFETY: what is mapped is looked at by the system alone, and nobody else knows the file.
        let map = unsafe { mmap(null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &file, 0) }.unwrap();
        let mut pages = vec![0u8; len.div_ceil(4096)];
        // SAFETY: the map is as long as is said, and there is a byte for each of its pages.
        assert_eq!(unsafe { libc::mincore(map, len, pages.as_mut_ptr()) }, 0);
        // SAFETY: as above; the map is used no more.
        unsafe { munmap(map, len) }.unwrap();
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn files_that_are_named_are_given_up_and_read_again() {
        // Beside the test, because a folder for temporary files may be memory, which is never given up.
        let folder = std::env::current_exe().unwrap().with_extension("place");
        let (inner, other) = (folder.join("model/weights"), folder.join("other"));
        fs::create_dir_all(folder.join("model")).unwrap();
        for file in [&inner, &other] {
            fs::write(file, vec![1; 64 * 4096]).unwrap();
        }
        let launch = Launch {
            program: "server".into(),
            args: vec!["--model".into(), folder.join("model").into(), "--missing".into()],
            env: vec![],
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ready_path: "/health",
            timeout: Duration::ZERO,
            log: folder.join("log"),
        };
        let files = named([&launch, &launch]);
        assert_eq!(files, std::slice::from_ref(&inner));
        files.iter().for_each(give_up);
        assert_eq!([n_cached(&inner), n_cached(&other)], [0, 64]);
        files.iter().for_each(read);
        assert_eq!(n_cached(&inner), 64);
        fs::remove_dir_all(folder).unwrap();
    }
}
