//! The program in the kernel.

use anyhow::{Context, Result};
use aya::maps::{Array, PerCpuArray};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_common::decap::{Counts, Ends};
use tracing::warn;

use super::Mode;
use crate::datapath;
use crate::maps::{self, substitute};

const NAME: &str = "xlb_decap";

/// The program with its maps. It leaves its interface when this is dropped.
pub struct Program {
    ebpf: Ebpf,
}

impl Program {
    /// # Errors
    /// The kernel refuses.
    pub fn load(object: &[u8]) -> Result<Self> {
        let object = substitute::for_kernel(object, maps::kernel()?);
        // The balancer's tables are in the same object, and stay as small as their anchors.
        let mut loader = EbpfLoader::new();
        // Nor is the ring used: as short as one may be where pages are of 64 KiB.
        loader.map_max_entries("TRACE_RING", 1 << 16);
        let mut ebpf = loader.load(&object).context("the BPF object does not load")?;
        let program: &mut Xdp = ebpf.program_mut(NAME).context("the BPF object has no such program")?.try_into()?;
        crate::datapath::load(program).context("the kernel refuses the program")?;
        Ok(Self { ebpf })
    }

    /// # Errors
    /// None: the program was found when it was loaded.
    pub fn xdp(&mut self) -> Result<&mut Xdp> {
        Ok(self.ebpf.program_mut(NAME).context(NAME)?.try_into()?)
    }

    /// Says which packets to take apart.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set(&mut self, ends: &Ends) -> Result<()> {
        let mut map: Array<_, [u8; size_of::<Ends>()]> = self.ebpf.map_mut("DECAP_ENDS").context("DECAP_ENDS")?.try_into()?;
        let bytes: [u8; size_of::<Ends>()] = zerocopy::transmute!(*ends);
        Ok(map.set(0, bytes, 0)?)
    }

    /// Packets so far, over all CPUs, indexed by [`lb_common::decap::Outcome`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counts(&self) -> Result<Counts> {
        let map: PerCpuArray<_, Counts> = self.ebpf.map("DECAP_COUNTS").context("DECAP_COUNTS")?.try_into()?;
        let mut sums = Counts::default();
        for cpu in map.get(&0, 0)?.iter() {
            sums.iter_mut().zip(cpu).for_each(|(sum, count)| *sum = sum.wrapping_add(*count));
        }
        Ok(sums)
    }

    /// Attaches to an interface. Yields whether natively.
    ///
    /// # Errors
    /// The interface refuses, as one that has another program does.
    pub fn attach(&mut self, interface: &str, ifindex: u32, mode: Mode) -> Result<bool> {
        let xdp = self.xdp()?;
        if mode != Mode::Generic {
            match xdp.attach_to_if_index(ifindex, XdpMode::Driver) {
                Ok(_) => return Ok(true),
                Err(error) if mode == Mode::Native => return Err(datapath::refusal(interface, true, error).into()),
                Err(error) => {
                    let reason = crate::error::chain(&error);
                    warn!(
                        interface,
                        reason, "the interface refuses native mode, attaching in generic mode: each packet costs more"
                    );
                }
            }
        }
        xdp.attach_to_if_index(ifindex, XdpMode::Skb).map_err(|error| datapath::refusal(interface, false, error))?;
        Ok(false)
    }
}
