//! Limits the speed of the disk for some processes, by a cgroup with limits of the block layer.
//!
//! A virtual disk is often memory of its host. Then "cold" means little, and a sync is over at
//! once. `cold` and `produce` put servers into such a group and take them out afterwards. Both
//! versions of cgroups work. It needs root.
//!
//! ```text
//! v1   MOUNT/penstock-bench-PID/blkio.throttle.read_bps_device   ◀─ "254:0 400000000"
//!                              /blkio.throttle.write_bps_device  ◀─ "254:0 400000000"
//! v2   MOUNT/penstock-bench-PID/io.max                           ◀─ "254:0 rbps=400000000 wbps=400000000"
//! ```

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::plan::Plan;

/// The slow disk of a plan, by default of `usual_bytes_per_s`. `None`: the plan does not want one,
/// or did not insist on one that cannot be had; `why_not` then gets the reason.
///
/// # Errors
/// The plan insists on a slow disk that cannot be had.
pub(crate) fn slow_disk(
    plan: &Plan,
    usual_bytes_per_s: u64,
    why_not: &mut Option<String>,
) -> anyhow::Result<Option<(u64, DiskLimit)>> {
    let bytes_per_s = plan.disk_bytes_per_s.unwrap_or(usual_bytes_per_s);
    if bytes_per_s == 0 {
        return Ok(None);
    }
    match DiskLimit::new(&plan.dir, bytes_per_s) {
        Ok(limit) => Ok(Some((bytes_per_s, limit))),
        Err(error) if plan.disk_bytes_per_s.is_some() => Err(error.context("no limit of the disk")),
        Err(error) => {
            plan.say(&format!("only the unlimited disk: {error:#}"));
            *why_not = Some(format!("{error:#}"));
            Ok(None)
        }
    }
}

/// A group that exists as long as this value. Dropping it puts the processes back into their
/// groups.
#[derive(Debug)]
pub(crate) struct DiskLimit {
    hierarchy: Hierarchy,
    group: PathBuf,
    /// Processes in the group, and the groups that they came from.
    held: Vec<(u32, PathBuf)>,
}

/// The place of cgroups that can limit a disk.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl DiskLimit {
    /// Makes a group whose processes read and write at most `bytes_per_s` on the disk under `dir`.
    ///
    /// # Errors
    /// There is no disk under `dir`, there are no such cgroups, or this process may not use them.
    pub(crate) fn new(dir: &Path, bytes_per_s: u64) -> anyhow::Result<DiskLimit> {
        let device = device(dir)?;
        let hierarchy = Hierarchy::find()?;
        let group = hierarchy.mount.join(format!("penstock-bench-{}", std::process::id()));
        fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
        let limit = DiskLimit { hierarchy, group, held: Vec::new() };
        for (file, rule) in limit.hierarchy.version.rules(&device, bytes_per_s) {
            let file = limit.group.join(file);
            fs::write(&file, &rule)
                .with_context(|| format!("cannot write {rule:?} to {}", file.display()))?;
        }
        Ok(limit)
    }

    /// A command that enters the group before it becomes `command`.
    pub(crate) fn around(&self, command: &Command) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        shell.arg(self.group.join("cgroup.procs"));
        shell.arg(command.get_program()).args(command.get_args());
        shell
    }

    /// Puts a process with all its threads into the group.
    ///
    /// # Errors
    /// The process is gone, or may not be moved.
    pub(crate) fn hold(&mut self, pid: u32) -> anyhow::Result<()> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let home = self.hierarchy.version.group_of(&groups);
        let home = home.with_context(|| format!("process {pid} is in no group: {groups}"))?;
        let home = self.hierarchy.mount.join(home.trim_start_matches('/'));
        put(pid, &self.group)?;
        self.held.push((pid, home));
        Ok(())
    }
}

impl Drop for DiskLimit {
    fn drop(&mut self) {
        // Ended processes are left out, since other processes may have their ids by now.
        let inside = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        let inside: Vec<u32> = inside.lines().filter_map(|pid| pid.parse().ok()).collect();
        for (pid, home) in self.held.iter().filter(|(pid, _)| inside.contains(pid)) {
            let _ = put(*pid, home);
        }
        if let Err(error) = fs::remove_dir(&self.group) {
            eprintln!("cannot remove {}: {error}", self.group.display());
        }
    }
}

impl Hierarchy {
    fn find() -> anyhow::Result<Hierarchy> {
        let found = Hierarchy::among(&fs::read_to_string("/proc/mounts")?)
            .context("no cgroups are mounted")?;
        if found.version == Version::Two {
            let controllers = found.mount.join("cgroup.subtree_control");
            fs::write(&controllers, "+io").context("the io controller cannot be used")?;
            // Writes count by the group that owns the memory, so they need its controller. Reads do
            // not.
            let _ = fs::write(&controllers, "+memory");
        }
        Ok(found)
    }

    /// The hierarchy of version 1 has the controller, if there is one.
    fn among(mounts: &str) -> Option<Hierarchy> {
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mut found = None;
        for fields in fields {
            let [_, mount, kind, options, ..] = fields[..] else { continue };
            let mount = PathBuf::from(mount);
            match kind {
                "cgroup" if options.split(',').any(|option| option == "blkio") => {
                    return Some(Hierarchy { mount, version: Version::One });
                }
                "cgroup2" => found = Some(Hierarchy { mount, version: Version::Two }),
                _ => {}
            }
        }
        found
    }
}

impl Version {
    /// The files of a group, and the text to write into each.
    fn rules(self, device: &str, bytes_per_s: u64) -> Vec<(&'static str, String)> {
        match self {
            Version::One => ["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"]
                .map(|file| (file, format!("{device} {bytes_per_s}")))
                .into(),
            Version::Two => {
                vec![("io.max", format!("{device} rbps={bytes_per_s} wbps={bytes_per_s}"))]
            }
        }
    }

    /// Reads /proc/PID/cgroup (cgroups(7)): `number:controllers:path`. In version 2 the number is 0
    /// and no controllers are named.
    fn group_of(self, groups: &str) -> Option<&str> {
        groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let here = match self {
                Version::One => controllers.split(',').any(|controller| controller == "blkio"),
                Version::Two => controllers.is_empty(),
            };
            here.then_some(path)
        })
    }
}

/// `major:minor` of the disk under a directory. The block layer limits disks, not partitions.
fn device(dir: &Path) -> anyhow::Result<String> {
    let number = fs::metadata(dir)?.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let known = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if !known.exists() {
        bail!("{} lies on no block device (its number is {major}:{minor})", dir.display());
    }
    if known.join("partition").exists() {
        return Ok(fs::read_to_string(known.canonicalize()?.with_file_name("dev"))?.trim().into());
    }
    Ok(format!("{major}:{minor}"))
}

fn put(pid: u32, group: &Path) -> anyhow::Result<()> {
    let file = group.join("cgroup.procs");
    fs::write(&file, pid.to_string())
        .with_context(|| format!("cannot put process {pid} into {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_with_the_controller_is_found_in_either_version() {
        let second = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let first = "cgroup /sys/fs/cgroup/blkio cgroup rw,relatime,blkio 0 0\n";
        let other =
            "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\nproc /proc proc rw 0 0\n";
        let found = |mounts: &[&str]| Hierarchy::among(&mounts.concat());
        let blkio = Hierarchy { mount: "/sys/fs/cgroup/blkio".into(), version: Version::One };
        assert_eq!(found(&[second, other, first]), Some(blkio));
        let unified = Hierarchy { mount: "/sys/fs/cgroup/unified".into(), version: Version::Two };
        assert_eq!(found(&[other, second]), Some(unified));
        assert_eq!(found(&[other]), None);
    }

    #[test]
    fn a_process_has_a_group_in_each_hierarchy() {
        let groups = "5:blkio,net:/machine/a:b\n1:name=systemd:/x\n0::/user\n";
        assert_eq!(Version::One.group_of(groups), Some("/machine/a:b"));
        assert_eq!(Version::Two.group_of(groups), Some("/user"));
        assert_eq!(Version::One.group_of("0::/user\n"), None);
    }
}
