module tarbert/bench

go 1.26.0

require (
	github.com/klauspost/cpuid/v2 v2.4.2
	gonum.org/v1/gonum v0.16.0
	tarbert v0.0.0
)

require golang.org/x/sys v0.49.0 // indirect

replace tarbert => ../
