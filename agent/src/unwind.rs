//! From registers and a piece of stack to the addresses of a thread's calls,
//! and from addresses to places in files.
//!
//! Promises: programs without frame pointers are unwound by their call frame
//! information (`.eh_frame`, `.debug_frame`); code without any is crossed by
//! frame pointers. An address becomes a place when its sample is taken, so
//! that what is unmapped later still has a name.
//!
//! Leaves to others: taking the sample ([`crate::source::perf`]) and naming
//! the place ([`crate::symbolize`]). Sampled and tested on x86_64; the
//! registers of aarch64 are here and untested.

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use framehop::Unwinder as _;
use object::{Object, ObjectSection};
use rustc_hash::FxHashMap;

use crate::symbolize::binary::{Binaries, Binary, BinaryId, Image};
use crate::symbolize::maps::{self, Mapped, Mapping};

pub(crate) use arch::{REGISTERS_COUNT, REGISTERS_MASK, Registers};

/// Most addresses of one stack; deeper ones are cut at the root.
pub(crate) const MAX_ADDRESSES: usize = 512;

#[cfg(target_arch = "x86_64")]
mod arch {
    //! Registers as `PERF_REG_X86_*` numbers them.
    use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};

    pub(super) type Unwinder<D> = UnwinderX86_64<D>;
    pub(super) type Cache = CacheX86_64;
    pub(super) type UnwindRegs = UnwindRegsX86_64;

    /// BP, SP and IP.
    pub(crate) const REGISTERS_MASK: u64 = 1 << 6 | 1 << 7 | 1 << 8;
    /// Number of bits in the mask.
    pub(crate) const REGISTERS_COUNT: usize = 3;

    /// The registers that unwinding starts from.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Registers {
        pub(super) ip: u64,
        pub(super) sp: u64,
        bp: u64,
    }

    impl Registers {
        /// The instruction in the program.
        pub(crate) fn ip(&self) -> u64 {
            self.ip
        }

        /// Takes the words in the order of the mask's bits.
        pub(crate) fn from_words([bp, sp, ip]: [u64; REGISTERS_COUNT]) -> Self {
            Self { ip, sp, bp }
        }

        pub(super) fn start(self, _highest_code: u64) -> UnwindRegs {
            UnwindRegs::new(self.ip, self.sp, self.bp)
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    //! Registers as `PERF_REG_ARM64_*` numbers them.
    use framehop::aarch64::{CacheAarch64, PtrAuthMask, UnwindRegsAarch64, UnwinderAarch64};

    pub(super) type Unwinder<D> = UnwinderAarch64<D>;
    pub(super) type Cache = CacheAarch64;
    pub(super) type UnwindRegs = UnwindRegsAarch64;

    /// X29, LR, SP and PC.
    pub(crate) const REGISTERS_MASK: u64 = 1 << 29 | 1 << 30 | 1 << 31 | 1 << 32;
    /// Number of bits in the mask.
    pub(crate) const REGISTERS_COUNT: usize = 4;

    /// The registers that unwinding starts from.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Registers {
        pub(super) ip: u64,
        pub(super) sp: u64,
        fp: u64,
        lr: u64,
    }

    impl Registers {
        /// The instruction in the program.
        pub(crate) fn ip(&self) -> u64 {
            self.ip
        }

        /// Takes the words in the order of the mask's bits.
        pub(crate) fn from_words([fp, lr, sp, ip]: [u64; REGISTERS_COUNT]) -> Self {
            Self { ip, sp, fp, lr }
        }

        pub(super) fn start(self, highest_code: u64) -> UnwindRegs {
            let mask = PtrAuthMask::from_max_known_address(highest_code);
            UnwindRegs::new_with_ptr_auth_mask(mask, self.lr, self.sp, self.fp)
        }
    }
}

/// Where an instruction stands, whatever process ran it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// At an offset in a file.
    Code {
        /// The file.
        binary: BinaryId,
        /// Offset of the instruction in it.
        offset: u64,
    },
    /// In memory that shows no file, such as that of a just-in-time compiler.
    Memory {
        /// The process.
        pid: i32,
        /// Address in it.
        address: u64,
    },
    /// In the kernel, for no call of user code.
    Kernel,
}

/// Whether a stack goes down to where its thread began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// The unwinder found the bottom.
    Bottom,
    /// It stopped; the function it stopped in tells whether that is the
    /// bottom.
    Unsure,
    /// The root is missing.
    Cut,
}

/// What unwinding keeps between samples; one serves all processes.
#[derive(Default)]
pub(crate) struct UnwindCache(arch::Cache);

/// The executable memory of one process.
#[derive(Clone)]
pub(crate) struct AddressSpace {
    pid: i32,
    /// In order of addresses.
    regions: Vec<Region>,
    unwinder: arch::Unwinder<Section>,
}

#[derive(Clone)]
struct Region {
    mapping: Mapping,
    binary: Option<Arc<Binary>>,
}

impl AddressSpace {
    /// Returns the space of a process of which nothing is known yet.
    pub(crate) fn empty(pid: i32) -> Self {
        Self {
            pid,
            regions: Vec::new(),
            unwinder: arch::Unwinder::new(),
        }
    }

    /// The space of process `pid` that was forked off this one.
    pub(crate) fn forked(&self, pid: i32) -> Self {
        Self {
            pid,
            ..self.clone()
        }
    }

    /// Brings it up to date with what the process has mapped now. Files that
    /// stay mapped stay open.
    ///
    /// # Errors
    ///
    /// If the process is gone or not ours to read; what was known stays.
    pub(crate) fn refresh(&mut self, binaries: &mut Binaries) -> io::Result<()> {
        let mappings = maps::read(self.pid)?;
        if mappings.is_empty() {
            // So it reads for a process that is exiting.
            return Ok(());
        }
        let mut old: FxHashMap<(u64, u64, u64, u64), Region> = self
            .regions
            .drain(..)
            .map(|region| (identity(&region.mapping), region))
            .collect();
        let mut fresh = Vec::new();
        let kept: Vec<_> = mappings
            .into_iter()
            .map(|mapping| match old.remove(&identity(&mapping)) {
                Some(region) => region,
                None => {
                    fresh.push(mapping.start);
                    let binary = binaries.of_mapping(self.pid, &mapping);
                    Region { mapping, binary }
                }
            })
            .collect();
        for region in old.values() {
            self.unwinder.remove_module(region.mapping.start);
        }
        for region in &kept {
            if fresh.contains(&region.mapping.start) {
                add_module(&mut self.unwinder, region);
            }
        }
        self.regions = kept;
        Ok(())
    }

    fn region_at(&self, address: u64) -> Option<&Region> {
        let after = self
            .regions
            .partition_point(|region| region.mapping.start <= address);
        let region = self.regions.get(after.checked_sub(1)?)?;
        (address < region.mapping.end).then_some(region)
    }

    /// Whether anything executable is known to be at `address`.
    pub(crate) fn knows(&self, address: u64) -> bool {
        self.region_at(address).is_some()
    }

    /// The place of `address`.
    pub(crate) fn place(&self, address: u64) -> Place {
        let in_file = self.region_at(address).and_then(|region| {
            let binary = region.binary.as_ref()?.id();
            let within = address - region.mapping.start;
            let offset = region.mapping.offset.checked_add(within)?;
            Some(Place::Code { binary, offset })
        });
        in_file.unwrap_or(Place::Memory {
            pid: self.pid,
            address,
        })
    }

    /// What to call `address` when nothing is known but where it lies:
    /// `[anon]`, the kernel's name for the memory, or `[unmapped]`.
    pub(crate) fn name_of_memory(&self, address: u64) -> String {
        match self.region_at(address).map(|region| &region.mapping.what) {
            Some(Mapped::Other(name)) if name.starts_with('[') => name.clone(),
            Some(_) => "[anon]".to_owned(),
            None => "[unmapped]".to_owned(),
        }
    }

    /// Appends the addresses of the calls that led to `registers`, leaf first.
    /// Those of callers lie within the call instruction.
    ///
    /// `stack` is what lies from the stack pointer on.
    pub(crate) fn unwind(
        &self,
        cache: &mut UnwindCache,
        registers: Registers,
        stack: &[u8],
        addresses: &mut Vec<u64>,
    ) -> End {
        // The library checks for overflows in this build, and registers and
        // tables are the target's to choose: no sample may end the agent.
        let guarded =
            AssertUnwindSafe(|| self.unwind_unguarded(cache, registers, stack, addresses));
        catch_unwind(guarded).unwrap_or(End::Cut)
    }

    fn unwind_unguarded(
        &self,
        cache: &mut UnwindCache,
        registers: Registers,
        stack: &[u8],
        addresses: &mut Vec<u64>,
    ) -> End {
        let mut read_stack = |address: u64| word_at(stack, registers.sp, address).ok_or(());
        let start = registers.start(self.unwinder.max_known_code_address());
        let mut frames =
            self.unwinder
                .iter_frames(registers.ip, start, &mut cache.0, &mut read_stack);
        loop {
            match frames.next() {
                Ok(Some(frame)) => addresses.push(frame.address_for_lookup()),
                Ok(None) => return End::Bottom,
                Err(_) => return End::Unsure,
            }
            if addresses.len() >= MAX_ADDRESSES {
                return End::Cut;
            }
        }
    }
}

/// Makes the tables of `region` known, unless they end the library that reads
/// them.
fn add_module(unwinder: &mut arch::Unwinder<Section>, region: &Region) {
    let guarded = AssertUnwindSafe(|| {
        if let Some(module) = region.module() {
            unwinder.add_module(module);
        }
    });
    if catch_unwind(guarded).is_err() {
        let file = region.binary.as_ref().map(|binary| binary.name());
        tracing::debug!(file, "unwind tables not used");
    }
}

fn word_at(stack: &[u8], sp: u64, address: u64) -> Option<u64> {
    let from = usize::try_from(address.checked_sub(sp)?).ok()?;
    let bytes = stack.get(from..from.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// What makes a mapping the same as one seen earlier.
fn identity(mapping: &Mapping) -> (u64, u64, u64, u64) {
    (mapping.start, mapping.end, mapping.offset, mapping.inode)
}

impl Region {
    /// What the unwinder needs to know of it.
    fn module(&self) -> Option<framehop::Module<Section>> {
        let binary = self.binary.as_ref()?;
        let image = binary.image()?;
        let object = object::File::parse(image.as_ref()).ok()?;
        let address = binary.address_of_mapping(self.mapping.offset)?;
        let base = object.relative_address_base();
        // Both ends of the difference are the target's to choose.
        let base_in_memory = self.mapping.start.wrapping_sub(address).wrapping_add(base);
        let sections = Sections {
            image,
            object: &object,
            base,
        };
        Some(framehop::Module::new(
            binary.name().to_owned(),
            self.mapping.start..self.mapping.end,
            base_in_memory,
            sections,
        ))
    }
}

/// A section of a file that stays mapped.
#[derive(Clone)]
struct Section {
    image: Image,
    range: Range<usize>,
}

impl std::ops::Deref for Section {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.image
            .as_ref()
            .get(self.range.clone())
            .unwrap_or_default()
    }
}

struct Sections<'a> {
    image: &'a Image,
    object: &'a object::File<'a>,
    base: u64,
}

impl framehop::ModuleSectionInfo<Section> for Sections<'_> {
    fn base_svma(&self) -> u64 {
        self.base
    }

    fn section_svma_range(&mut self, name: &[u8]) -> Option<Range<u64>> {
        let section = self.object.section_by_name_bytes(name)?;
        Some(section.address()..section.address().checked_add(section.size())?)
    }

    fn section_data(&mut self, name: &[u8]) -> Option<Section> {
        let section = self.object.section_by_name_bytes(name)?;
        let range = section.compressed_file_range().ok()?;
        if range.format != object::CompressionFormat::None {
            return None;
        }
        let start = usize::try_from(range.offset).ok()?;
        let end = start.checked_add(usize::try_from(range.uncompressed_size).ok()?)?;
        self.image.as_ref().get(start..end)?;
        Some(Section {
            image: self.image.clone(),
            range: start..end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_within_the_dump_are_read() {
        let stack: Vec<u8> = (0..16).collect();
        for (address, expected) in [
            (0x1000, Some(0x0706_0504_0302_0100)),
            (0x1008, Some(0x0f0e_0d0c_0b0a_0908)),
            (0x1009, None),
            (0x0fff, None),
            (u64::MAX, None),
        ] {
            assert_eq!(word_at(&stack, 0x1000, address), expected, "{address:#x}");
        }
    }

    #[test]
    fn a_function_of_ours_has_a_place_in_our_own_file() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut binaries = Binaries::default();
        let mut space = AddressSpace::empty(pid);
        assert!(matches!(space.place(0x1000), Place::Memory { .. }));
        space.refresh(&mut binaries).unwrap();
        let address = u64::try_from(only_words_within_the_dump_are_read as fn() as usize).unwrap();
        let Place::Code { binary, offset } = space.place(address) else {
            panic!("no place for {address:#x}");
        };
        let binary = binaries.get(binary).unwrap();
        assert!(binary.address_of(offset).is_some());
        assert_eq!(space.name_of_memory(8), "[unmapped]");
    }
}
