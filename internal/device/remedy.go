package device

// Remedy is what a fault of a chip asks for, in one scale for all vendors.
type Remedy string

// The remedies, by rising weight.
const (
	RemedyUnknown Remedy = ""        // a code that nobody listed: recorded, nothing else
	RemedyNone    Remedy = "none"    // heals itself, or is information
	RemedyRetry   Remedy = "retry"   // do the step again
	RemedyProcess Remedy = "process" // restart the processes on the same chip
	RemedyDrain   Remedy = "drain"   // no new work; what runs may go on
	RemedyReset   Remedy = "reset"   // stop, reset the chip, qualify it again
	RemedyIsolate Remedy = "isolate" // leave the chip out
	RemedyNode    Remedy = "node"    // leave the node out
)

// Classifier is what a driver may offer besides: its vendor's word on a fault code.
type Classifier interface {
	Remedy(code string) Remedy
}
