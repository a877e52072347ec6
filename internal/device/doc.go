// Package device is a chip as a value, and the seam to the vendor tools that
// find chips on a node.
//
// Drivers (device/cpu, device/nvidia, device/ascend) read vendor tools through
// an injected Run, so that recorded output tests them. Every probe has its own
// deadline, and a tool that hangs or answers in an unknown layout makes a
// device *unknown*, never *failed*. A driver never sees Kubernetes.
package device
