; Mutual recursion in tail position: a million calls, no stack.
(define (is-even? n) (if (= n 0) #t (is-odd? (- n 1))))
(define (is-odd? n) (if (= n 0) #f (is-even? (- n 1))))
(display (list (is-even? 1000000) (is-odd? 1000000))) (newline)

; The same, local: the environment of each call of `parity` is a cycle with two closures.
(define (parity n)
  (letrec ((even (lambda (n) (if (= n 0) 'even (odd (- n 1)))))
           (odd (lambda (n) (if (= n 0) 'odd (even (- n 1))))))
    (even n)))
(define before (live-objects))
(define (many n) (unless (= n 0) (parity (remainder n 7)) (many (- n 1))))
(many 200000)
(display (list (parity 100001) (< (- (live-objects) before) 100000))) (newline)

; Not in tail position: Hofstadter's sequences.
(define (female n) (if (= n 0) 1 (- n (male (female (- n 1))))))
(define (male n) (if (= n 0) 0 (- n (female (male (- n 1))))))
(display (map female (iota 20))) (newline)
(display (map male (iota 20))) (newline)

; Deep, not in tail position.
(define (count n) (if (= n 0) 0 (+ 1 (count (- n 1)))))
(display (count 10000)) (newline)
