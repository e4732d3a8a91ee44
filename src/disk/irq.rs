//! Which core takes a disk's interrupts.
//!
//! A device with one request queue interrupts one core, whoever submitted. A thread that waits for it anywhere else is
//! woken across cores: on the virtual machine where it was measured, a durable write of a thread on that core took 125 us
//! and one on the other core 265. Devices with a queue for each core (NVMe) interrupt the core that submitted, and leave
//! nothing to choose.

use std::fs;
use std::path::Path;

/// The one core that takes the interrupts of the block device at `node` (its directory in sysfs), if there is one.
pub(super) fn core_of(node: &Path, proc: &Path) -> Option<usize> {
    if fs::read_dir(node.join("mq")).ok()?.count() != 1 {
        return None;
    }
    let vectors = node.ancestors().map(|above| above.join("msi_irqs")).find_map(|list| fs::read_dir(list).ok())?;
    let vectors: Vec<u32> = vectors.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    let busiest = busiest(&fs::read_to_string(proc.join("interrupts")).ok()?, &vectors)?;
    // A list of more than one leaves the choice to the kernel.
    fs::read_to_string(proc.join(format!("irq/{busiest}/effective_affinity_list"))).ok()?.trim().parse().ok()
}

/// The one of `vectors` that came most often, by /proc/interrupts: requests outnumber changes of configuration.
fn busiest(interrupts: &str, vectors: &[u32]) -> Option<u32> {
    let counted = interrupts.lines().filter_map(|line| {
        let (vector, counts) = line.split_once(':')?;
        let vector = vector.trim().parse().ok().filter(|vector| vectors.contains(vector))?;
        let counts = counts.split_whitespace().map_while(|count| count.parse::<u64>().ok());
        Some((counts.sum::<u64>(), vector))
    });
    counted.max().filter(|(count, _)| *count > 0).map(|(_, vector)| vector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::scratch::Scratch;

    const INTERRUPTS: &str = "           CPU0       CPU1
 35:          0          1 PCI-MSIX-0000:00:02.0   0-edge      virtio1-config
 36:          0   19238847 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
 38:   99999999          0 PCI-MSIX-0000:00:03.0   1-edge      another device's
NMI:          0          0   Non-maskable interrupts
";

    #[test]
    fn the_core_of_a_device_with_one_queue_is_found() {
        let root = Scratch::new();
        let (node, proc) = (root.join("sys/virtio1/block/vda"), root.join("proc"));
        let write = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        fs::create_dir_all(node.join("mq/0")).unwrap();
        assert_eq!(core_of(&node, &proc), None, "no interrupts of its own");
        write(&root.join("sys/virtio1/msi_irqs/35"), "msix");
        write(&root.join("sys/virtio1/msi_irqs/36"), "msix");
        assert_eq!(core_of(&node, &proc), None, "nothing is told of interrupts");
        write(&proc.join("interrupts"), INTERRUPTS);
        write(&proc.join("irq/35/effective_affinity_list"), "0\n");
        write(&proc.join("irq/36/effective_affinity_list"), "1\n");
        assert_eq!(core_of(&node, &proc), Some(1));
        write(&proc.join("irq/36/effective_affinity_list"), "0-1\n");
        assert_eq!(core_of(&node, &proc), None, "any core");
        write(&proc.join("irq/36/effective_affinity_list"), "1\n");
        fs::create_dir_all(node.join("mq/1")).unwrap();
        assert_eq!(core_of(&node, &proc), None, "a queue for each core");
    }

    #[test]
    fn a_vector_that_never_came_says_nothing() {
        assert_eq!(busiest(INTERRUPTS, &[35, 36]), Some(36));
        assert_eq!(
            busiest(&INTERRUPTS.replace("19238847", "0").replace("          1 P", "          0 P"), &[35, 36]),
            None
        );
        assert_eq!(busiest("", &[35]), None);
    }
}
