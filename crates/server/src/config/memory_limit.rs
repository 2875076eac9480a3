//! How much memory this process may use: its cgroup's limit, or what the machine has.
//!
//! Called once, by serve at start. The input is text of /proc and of the cgroup file systems.
//! Finding the files that count, and reading their text, is pure.
//!
//! ```text
//!   /proc/self/cgroup      0::/system.slice/penstock.service          which group, in which hierarchy
//!   /proc/self/mountinfo   … / /sys/fs/cgroup … - cgroup2 …           where that hierarchy is mounted
//!   v2   memory.max, memory.high    of the group and of every group above it: the least counts
//!   v1   memory.limit_in_bytes      the same
//!   /proc/meminfo          MemTotal                                   where no group has less
//! ```

use std::path::{Path, PathBuf};

/// A limit and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    pub(crate) bytes: u64,
    /// The file it was read from.
    pub(crate) source: PathBuf,
}

const HOST: &str = "/proc/meminfo";
const V1_FILES: &[&str] = &["memory.limit_in_bytes"];
const V2_FILES: &[&str] = &["memory.max", "memory.high"];

impl MemoryLimit {
    /// The limit of this process now. `None`: it cannot be found out.
    pub(crate) fn read() -> Option<MemoryLimit> {
        least_of(|path| std::fs::read(path).ok())
    }
}

/// The least limit of all files that count. `read` returns a file's content. Names in it are
/// whatever others have called their directories: those that are not UTF-8 must hide no limit.
fn least_of(read: impl Fn(&Path) -> Option<Vec<u8>>) -> Option<MemoryLimit> {
    let read = |path: &Path| Some(String::from_utf8_lossy(&read(path)?).into_owned());
    let text = |path: &str| read(Path::new(path)).unwrap_or_default();
    let groups = limit_files(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
    let of_groups = groups.into_iter().filter_map(|source| {
        let bytes = bytes_of(&read(&source)?)?;
        Some(MemoryLimit { bytes, source })
    });
    let host = host_bytes(&text(HOST)).map(|bytes| MemoryLimit { bytes, source: HOST.into() });
    of_groups.chain(host).min_by_key(|limit| limit.bytes)
}

/// The files that limit a process, by its /proc/self/cgroup and /proc/self/mountinfo.
fn limit_files(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let names = match controllers {
            "" => V2_FILES,
            _ if controllers.split(',').any(|controller| controller == "memory") => V1_FILES,
            _ => continue,
        };
        let mount = mountinfo.lines().filter_map(Mount::of).find(|mount| {
            let kind = if controllers.is_empty() { "cgroup2" } else { "cgroup" };
            mount.kind == kind && (kind == "cgroup2" || mount.has_option("memory"))
        });
        let Some(mount) = mount else { continue };
        for directory in mount.directories_of(group) {
            files.extend(names.iter().map(|name| directory.join(name)));
        }
    }
    files
}

/// A line of mountinfo, see proc_pid_mountinfo(5).
struct Mount<'a> {
    /// The directory of the file system that is mounted.
    root: &'a str,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl Mount<'_> {
    fn of(line: &str) -> Option<Mount<'_>> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split_whitespace().skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let kind = after.next()?;
        let options = after.nth(1).unwrap_or_default();
        // The kernel escapes a blank like this. Other escapes are unlikely in a mount point.
        Some(Mount { root, point: point.replace("\\040", " ").into(), kind, options })
    }

    fn has_option(&self, wanted: &str) -> bool {
        self.options.split(',').any(|option| option == wanted)
    }

    /// The directory of a group and those above it, as far as they can be seen from here.
    fn directories_of(&self, group: &str) -> Vec<PathBuf> {
        let below = Path::new(group).strip_prefix(self.root).unwrap_or(Path::new(""));
        // A group outside of the mounted part has a path that leads upwards.
        let is_inside =
            below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let group = if is_inside { self.point.join(below) } else { self.point.clone() };
        group.ancestors().take_while(|at| at.starts_with(&self.point)).map(Path::to_owned).collect()
    }
}

/// The limit in a file; v2 has `max` for none.
fn bytes_of(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn host_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24683520 kB\nMemFree:         1500000 kB\n";
    const HOST_BYTES: u64 = 24_683_520 * 1024;
    const V2_MOUNT: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";
    const V1_MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
        33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    fn limit(files: &[(&str, &str)]) -> Option<(u64, String)> {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| text.as_bytes().to_owned())
        };
        least_of(read).map(|limit| (limit.bytes, limit.source.display().to_string()))
    }

    #[test]
    fn the_least_limit_of_a_group_and_those_above_it_counts() {
        let files = |inner, high, outer| {
            limit(&[
                ("/proc/meminfo", MEMINFO),
                ("/proc/self/cgroup", "0::/system.slice/penstock.service\n"),
                ("/proc/self/mountinfo", V2_MOUNT),
                ("/sys/fs/cgroup/system.slice/penstock.service/memory.max", inner),
                ("/sys/fs/cgroup/system.slice/penstock.service/memory.high", high),
                ("/sys/fs/cgroup/system.slice/memory.max", outer),
            ])
        };
        let group = "/sys/fs/cgroup/system.slice";
        let inner = format!("{group}/penstock.service/memory.max");
        assert_eq!(files("67108864\n", "max\n", "max\n"), Some((67_108_864, inner)));
        let high = format!("{group}/penstock.service/memory.high");
        assert_eq!(files("67108864\n", "1048576\n", "max\n"), Some((1_048_576, high)));
        let outer = format!("{group}/memory.max");
        assert_eq!(files("67108864\n", "max\n", "4096\n"), Some((4096, outer)));
        assert_eq!(files("max\n", "max\n", "max\n"), Some((HOST_BYTES, HOST.into())));
    }

    #[test]
    fn the_memory_hierarchy_of_the_first_version_is_found_among_the_others() {
        let files = |text| {
            limit(&[
                ("/proc/meminfo", MEMINFO),
                ("/proc/self/cgroup", "5:devices:/\n4:memory,hugetlb:/a/b\n3:cpu:/a\n0::/\n"),
                ("/proc/self/mountinfo", V1_MOUNTS),
                ("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", text),
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ])
        };
        let source = "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes";
        assert_eq!(files("25165824\n"), Some((25_165_824, source.into())));
        assert_eq!(files("9223372036854771712\n"), Some((HOST_BYTES, HOST.into())));
    }

    #[test]
    fn a_container_finds_its_own_limit_where_its_group_is_mounted() {
        let mounted = "40 31 0:32 /docker/4f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        for (group, mountinfo) in [
            ("4:memory:/docker/4f\n", mounted),
            ("4:memory:/docker/other\n", mounted),
            (
                "4:memory:/../4f\n",
                "40 31 0:32 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory",
            ),
        ] {
            let files = [
                ("/proc/self/cgroup", group),
                ("/proc/self/mountinfo", mountinfo),
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096"),
            ];
            let source = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
            assert_eq!(limit(&files), Some((4096, source.into())), "{group}");
        }
    }

    #[test]
    fn a_mount_point_that_is_not_utf_8_hides_no_limit() {
        let read = |path: &Path| match path.to_str()? {
            "/proc/self/cgroup" => Some(b"0::/penstock\n".to_vec()),
            "/proc/self/mountinfo" => {
                let other = b"28 23 8:1 / /mnt/caf\xe9 rw - ext4 /dev/sda1 rw\n";
                Some([&other[..], V2_MOUNT.as_bytes()].concat())
            }
            "/sys/fs/cgroup/penstock/memory.max" => Some(b"67108864\n".to_vec()),
            _ => None,
        };
        assert_eq!(least_of(read).map(|limit| limit.bytes), Some(67_108_864));
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        assert_eq!(limit(&[]), None);
        let files = [
            ("/proc/meminfo", "MemTotal: 18446744073709551615 kB"),
            ("/proc/self/cgroup", "no colon\n0:\n::\n4:memory:/../../..\n"),
            ("/proc/self/mountinfo", "a - b\n\n1 2 3 - cgroup cgroup memory\n - \n"),
        ];
        assert_eq!(limit(&files), None);
    }
}
