// fn vmx_run(is_launched: bool, registers: *mut Registers, floating: *mut FloatingPoint) -> bool
// False when the guest was not entered. RSP, RIP and RFLAGS are in the control structure; the other registers are moved
// here.
.section .text.vmx, "ax"
.global vmx_run
vmx_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rdx
    push rsi
    mov eax, 0x6c14                     // the host's RSP
    vmwrite rax, rsp
    fxrstor64 [rdx]
    test dil, dil                       // moves leave the flag alone
    mov rax, [rsi]
    mov rcx, [rsi + 8 * 1]
    mov rdx, [rsi + 8 * 2]
    mov rbx, [rsi + 8 * 3]
    mov rbp, [rsi + 8 * 5]
    mov rdi, [rsi + 8 * 7]
    mov r8, [rsi + 8 * 8]
    mov r9, [rsi + 8 * 9]
    mov r10, [rsi + 8 * 10]
    mov r11, [rsi + 8 * 11]
    mov r12, [rsi + 8 * 12]
    mov r13, [rsi + 8 * 13]
    mov r14, [rsi + 8 * 14]
    mov r15, [rsi + 8 * 15]
    mov rsi, [rsi + 8 * 6]
    jnz 0f
    vmlaunch
    xor eax, eax
    jmp 1f
0:  vmresume
    xor eax, eax
    jmp 1f

.global vmx_exit
vmx_exit:
    push rax
    mov rax, [rsp + 8]                  // registers
    mov [rax + 8 * 1], rcx
    mov [rax + 8 * 2], rdx
    mov [rax + 8 * 3], rbx
    mov [rax + 8 * 5], rbp
    mov [rax + 8 * 6], rsi
    mov [rax + 8 * 7], rdi
    mov [rax + 8 * 8], r8
    mov [rax + 8 * 9], r9
    mov [rax + 8 * 10], r10
    mov [rax + 8 * 11], r11
    mov [rax + 8 * 12], r12
    mov [rax + 8 * 13], r13
    mov [rax + 8 * 14], r14
    mov [rax + 8 * 15], r15
    pop rcx
    mov [rax], rcx
    mov eax, 1
1:  mov rcx, [rsp + 8]                  // floating
    fxsave64 [rcx]
    fninit
    mov dword ptr [rsp], 0x1f80
    ldmxcsr [rsp]
    add rsp, 16
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
