// Spins in a select whose channels have nothing to give.
package main

func startSink(queue, done chan int) {
	for {
		select {
		case <-queue:
		case <-done:
			return
		default:
		}
	}
}

func main() {
	startSink(make(chan int), make(chan int))
}
