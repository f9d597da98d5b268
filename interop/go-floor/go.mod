module steeple.invalid/interop/go-floor

go 1.26
