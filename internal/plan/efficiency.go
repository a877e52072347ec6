package plan

// What share of the measured float32 product rate the reference trainer
// reaches, in model FLOPs. See design.md for the runs behind the ranges.
var (
	trainEfficiency   = Efficiency{Low: 0.1, High: 0.5}
	rolloutEfficiency = Efficiency{Low: 0.02, High: 0.2}
)
