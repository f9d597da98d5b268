//! A power cut loses nothing that was acknowledged.
//!
//! The data folder lies on an ext4 of its own in a file; the shutdown ioctl without a log flush drops
//! everything that no sync has made durable, as a power cut would. Needs root.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steeple_testkit::{Cluster, ClusterSpec, skip};

use crate::registry::{Ledger, Writers, listed};

/// Cuts in a row, each under load.
const CUTS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_through_power_cuts() {
    if !nix::unistd::getuid().is_root() {
        skip::record("power-cut", "needs root to mount a file system in a file");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    let mount = folder.path().join("member");
    std::fs::create_dir_all(&mount).unwrap();
    if let Err(error) = make_disk(&image).and_then(|()| mount_disk(&image, &mount)) {
        skip::record("power-cut", &format!("no loop-mounted ext4 here: {error:#}"));
        return;
    }
    let outcome = cuts(folder.path(), &image, &mount).await;
    drop(run("umount", &["-l", &mount.display().to_string()]));
    outcome.unwrap();
}

async fn cuts(folder: &Path, image: &Path, mount: &Path) -> Result<()> {
    let mut cluster =
        Cluster::prepare(folder, &ClusterSpec { members: 1, ..ClusterSpec::default() })?;
    // The configuration names the data folder by its path: put the disk below that path.
    let data = cluster.member(0)?.data();
    std::os::unix::fs::symlink(mount, &data).context("link the data folder to the disk")?;
    let ledger = Ledger::default();
    for cut in 0..CUTS {
        cluster.start_member(0)?;
        cluster.wait_ready(Duration::from_secs(30)).await?;
        let kept = listed(&cluster, 0).await;
        ledger.check(&kept).map_err(|wrong| anyhow::anyhow!("after cut {cut}:\n{wrong}"))?;
        let before = ledger.acknowledged();
        let writers = Writers::start(&cluster, 4, &format!("cut{cut}-"), &ledger);
        steeple_testkit::process::wait_for(
            "writes to be acknowledged",
            Duration::from_secs(20),
            async || {
                ensure!(ledger.acknowledged() > before + 100, "{} so far", ledger.acknowledged());
                Ok(())
            },
        )
        .await?;
        power_off(mount)?;
        cluster.kill_member(0)?;
        writers.finish().await;
        run("umount", &[&mount.display().to_string()])?;
        mount_disk(image, mount)?;
    }
    cluster.start_member(0)?;
    cluster.wait_ready(Duration::from_secs(30)).await?;
    let kept = listed(&cluster, 0).await;
    ledger.check(&kept).map_err(|wrong| anyhow::anyhow!("after the last cut:\n{wrong}"))
}

fn make_disk(image: &Path) -> Result<()> {
    let file = std::fs::File::create(image).context("create the disk's file")?;
    file.set_len(512 * 1024 * 1024).context("size the disk's file")?;
    run("mkfs.ext4", &["-q", "-F", &image.display().to_string()])
}

fn mount_disk(image: &Path, mount: &Path) -> Result<()> {
    run("mount", &["-o", "loop", &image.display().to_string(), &mount.display().to_string()])
}

/// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH. By Python, since the call needs no type of
/// ours and this crate has no unsafe code.
fn power_off(mount: &Path) -> Result<()> {
    let script = "import fcntl,os,struct,sys\n\
                  fd=os.open(sys.argv[1],os.O_RDONLY)\n\
                  fcntl.ioctl(fd,0x8004587d,struct.pack('I',2))\n";
    run("python3", &["-c", script, &mount.display().to_string()])
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(args).env("PATH", path).output();
    let output = output.with_context(|| format!("start {program}"))?;
    ensure!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
