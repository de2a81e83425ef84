//! What holds across crates.

#[cfg(test)]
mod kernels;
#[cfg(test)]
mod openai;
#[cfg(test)]
mod tidy;
