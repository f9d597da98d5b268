//! A disk of a member's own: an ext4 in a file, whose power can be cut.
//!
//! The shutdown ioctl without a log flush drops everything that no sync has made durable, as a power
//! cut would. The file lies in memory where it can, so that syncs are fast; what is durable on the
//! file system is not changed by that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::system::run;

/// Enough for the longest run; the file is sparse.
const BYTES: u64 = 1 << 30;

/// Times that mounting is tried, a twentieth of a second apart.
const TRIES: u32 = 60;

/// A mounted disk. Unmounted and deleted when it is dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// Makes a disk and mounts it on an existing folder.
    pub(crate) fn make(name: &str, mount: &Path) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let image = folder.join(name);
        let file = File::create(&image).context("create the disk's file")?;
        file.set_len(BYTES).context("size the disk's file")?;
        let disk = Self { image, mount: mount.to_owned() };
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &disk.image.display().to_string()])?;
        disk.attach()?;
        Ok(disk)
    }

    /// Mounts it; the file system repairs itself as after a power cut.
    pub(crate) fn attach(&self) -> Result<()> {
        let (image, mount) = (self.image.display().to_string(), self.mount.display().to_string());
        patiently(|| {
            run("mount", &["-o", "loop", &image, &mount])?;
            // Where another mount namespace still holds it, this is the file system that has no power.
            let probe = self.mount.join("probe");
            let alive = File::create(&probe).and_then(|_file| fs::remove_file(&probe));
            if alive.is_err() {
                run("umount", &[&mount])?;
            }
            alive.context("write to the disk")
        })
    }

    /// Unmounts it. No process may have files open there.
    pub(crate) fn detach(&self) -> Result<()> {
        patiently(|| run("umount", &[&self.mount.display().to_string()]))
    }

    /// Leaves no space on it.
    pub(crate) fn fill(&self) -> Result<()> {
        let ballast = File::create(self.ballast()).context("create the ballast")?;
        let space = rustix::fs::fstatvfs(&ballast).context("ask for the space left")?;
        let bytes = space.f_bavail.saturating_sub(4) * space.f_frsize;
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&ballast, flags, 0, bytes).context("fill the disk")
    }

    /// Gives the space back.
    pub(crate) fn make_room(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("remove the ballast")
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }
}

/// The kernel lets go of a loop device, and of the files of a process that has ended, a little after it
/// has said so.
fn patiently(what: impl Fn() -> Result<()>) -> Result<()> {
    let mut done = what();
    for _again in 0..TRIES {
        if done.is_ok() {
            break;
        }
        run("sleep", &["0.05"])?;
        done = what();
    }
    done
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whatever still holds it must not keep it in the way of later runs.
        drop(run("umount", &["-l", &self.mount.display().to_string()]));
        drop(fs::remove_file(&self.image));
    }
}

/// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH on all of them, within a millisecond. By Python,
/// since the call needs no type of ours and this crate has no unsafe code.
pub(crate) fn power_off(disks: &[&Disk]) -> Result<()> {
    let script = "import fcntl,os,struct,sys\n\
                  fds=[os.open(name,os.O_RDONLY) for name in sys.argv[1:]]\n\
                  for fd in fds: fcntl.ioctl(fd,0x8004587d,struct.pack('I',2))\n";
    let mounts: Vec<String> = disks.iter().map(|disk| disk.mount.display().to_string()).collect();
    let mut arguments = vec!["-c", script];
    arguments.extend(mounts.iter().map(String::as_str));
    run("python3", &arguments)
}
