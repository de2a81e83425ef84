//! What the binary will run on: the instruction set a spec asks for, and what a probe measured on a machine.

use serde::{Deserialize, Serialize};

/// An instruction set that the catalogue has kernels for, from the plainest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isa {
    /// The widest one that the machine that plans has. A plan never holds it: planning resolves it.
    Native,
    /// Portable Rust without intrinsics.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BF16 and VNNI. rustc takes BF16 to imply BW, which every processor that has BF16 has.
    Avx512,
    /// The same with AMX: tiles of bf16 and int8.
    Amx,
}

impl Isa {
    /// Every instruction set, as a spec spells it.
    pub const ALL: [Isa; 5] = [Isa::Native, Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The spelling in specs, plans and reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Native => "native",
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }
}

/// The CPU that a spec targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Instruction set asked for.
    pub isa: Isa,
    /// Threads that compute, the calling one included; 1 to 256.
    pub threads: usize,
    /// Most memory for weights, KV blocks and scratch together.
    pub memory: crate::workload::Bytes,
}

/// What a probe measured on a machine; the planner and the feasibility checks read it as data.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineFacts {
    /// Sustained read bandwidth of the target's threads together, bytes per second.
    pub bandwidth_bytes_per_s: f64,
    /// Sustained f32 multiply-add rate of the target's threads together, floating-point operations per second.
    pub flops: f64,
    /// Instruction sets present, `Native` never among them.
    pub isas: Vec<Isa>,
}

impl MachineFacts {
    /// The instruction set that `asked` means on this machine, or `None` where the machine lacks it.
    pub fn resolve(&self, asked: Isa) -> Option<Isa> {
        match asked {
            Isa::Native => self.isas.iter().copied().max(),
            isa => self.isas.contains(&isa).then_some(isa),
        }
    }
}
