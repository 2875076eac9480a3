//! Whole-system tests of Penstock live beside this file; what they share is here.
