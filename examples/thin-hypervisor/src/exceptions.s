// One entry for each of the processor's 32 exceptions, 16 bytes each. Those without an error code push one.
.section .text.exceptions, "ax"
.balign 16
.global exception_entries
exception_entries:
.set vector, 0
.rept 32
    .balign 16
    .if (0x60227d00 >> vector) & 1
    .else
    push 0
    .endif
    .byte 0x6a, vector                  // push; the assembler would take a name for memory
    jmp exception
    .set vector, vector + 1
.endr

exception:
    push r15
    push r14
    push r13
    push r12
    push r11
    push r10
    push r9
    push r8
    push rdi
    push rsi
    push rbp
    push rbx
    push rdx
    push rcx
    push rax
    mov rdi, rsp
    and rsp, -16
    call exception_report
