package plan

// trainEfficiency and rolloutEfficiency are what share of the measured float32
// product rate the reference trainer reaches, in model FLOPs, on processors. The
// runs behind the ranges are in design.md. Sampling reaches less: it multiplies
// by one token a sequence at a time.
var (
	trainEfficiency   = Efficiency{Low: 0.2, High: 0.6}
	rolloutEfficiency = Efficiency{Low: 0.05, High: 0.25}
)
