// The engine of docs/engine.md: memories, host port, loop nest, array and lanes, accumulators, post stage, writer.
// Parameters: docs/engine.md, section 1; the widths and depths that follow from them are computed in bnhw/rtl/parameters.py.
// `start` runs the program in the memories once; `step_done` ends each step, `done` the last. Probes show every raw sum,
// result of the post stage and stored number in the order of blocks and pixels.
`include "descriptor.vh"
module engine #(
    parameter PE = 4,
    parameter SIMD = 16,
    parameter DATAPATH = 0,            // 0 mux, 1 and, 2 xnor, 3 mul
    parameter ACT_BITS = 4,
    parameter WEIGHT_BITS = 1,
    parameter SUM_BITS = 9,
    parameter ACC_BITS = 16,
    parameter RESIDUAL_BITS = 16,
    parameter RESULT_BITS = 18,
    parameter POST = 0,                // 0 shift, 1 csd, 2 multiply
    parameter CSD_DIGITS = 0,
    parameter MULTIPLIER_BITS = 8,
    parameter OFFSET_BITS = 24,
    parameter SHIFT_BITS = 6,
    parameter COMPARATORS = 0,
    parameter LOOKUPS = 0,
    parameter PRODUCT_BITS = 0,
    parameter CLASS_BITS = 4,
    parameter RECORD_BITS = 35,        // one PE's constants
    parameter ACTIVATION_WORDS = 64,
    parameter RESIDUAL_WORDS = 64,
    parameter RESIDUAL_PORTS = 1,      // read ports: 1, or 2 (main and operand at the same time)
    parameter WEIGHT_WORDS = 64,
    parameter CONSTANT_WORDS = 16,
    parameter THRESHOLD_WORDS = 1,
    parameter LOOKUP_WORDS = 1,
    parameter CLASS_WORDS = 1,
    parameter DESCRIPTOR_WORDS = 16,
    parameter HOST_BITS = 32
) (
    input clk,
    input reset,
    input start,
    output idle,
    output step_done,
    output done,
    output [31:0] saturations,
    input host_valid,
    output host_ready,
    input host_write,
    input [2:0] host_memory,
    input [23:0] host_address,
    input [HOST_BITS-1:0] host_data,
    output host_answer_valid,
    output [HOST_BITS-1:0] host_answer,
    output probe_raw_valid,
    output [PE*ACC_BITS-1:0] probe_raw,
    output probe_q_valid,
    output [PE*RESULT_BITS-1:0] probe_q,
    output probe_number_valid,
    output [PE*RESULT_BITS-1:0] probe_number,
    output [SIMD/PE-1:0] probe_activation_reads,        // by bank
    output [(LOOKUPS > 0 ? LOOKUPS : 1)-1:0] probe_lookup_reads,
    output [6:0] probe_reads,   // descriptor, class, threshold, constant, weight, residual (operand, main) words
    output [1:0] probe_writes   // residual, activation words
);
    localparam GROUPS = SIMD / PE;
    localparam TERM_BITS = SUM_BITS + 2;
    localparam THRESHOLD_RECORD_BITS = COMPARATORS * (ACC_BITS + 1) + 1;
    localparam LOOKUP_PORTS = LOOKUPS > 0 ? LOOKUPS : 1;
    localparam ACTIVATION_WIDTH = PE * ACT_BITS, RESIDUAL_WIDTH = PE * RESIDUAL_BITS;
    localparam WEIGHT_WIDTH = PE * SIMD * WEIGHT_BITS, CONSTANT_WIDTH = PE * RECORD_BITS;
    localparam THRESHOLD_WIDTH = PE * THRESHOLD_RECORD_BITS;
    localparam WIDEST_1 = ACTIVATION_WIDTH > RESIDUAL_WIDTH ? ACTIVATION_WIDTH : RESIDUAL_WIDTH;
    localparam WIDEST_2 = WEIGHT_WIDTH > CONSTANT_WIDTH ? WEIGHT_WIDTH : CONSTANT_WIDTH;
    localparam WIDEST_3 = THRESHOLD_WIDTH > `DESCRIPTOR_BITS ? THRESHOLD_WIDTH : `DESCRIPTOR_BITS;
    localparam WIDEST_4 = WIDEST_1 > WIDEST_2 ? WIDEST_1 : WIDEST_2;
    localparam WIDEST = WIDEST_3 > WIDEST_4 ? WIDEST_3 : WIDEST_4;
    localparam WORD_BITS = (WIDEST + HOST_BITS - 1) / HOST_BITS * HOST_BITS;
    localparam BANK_BITS = GROUPS > 1 ? $clog2(GROUPS) : 1;

    // ---- host
    wire [7:0] host_writes, host_reads;
    wire [23:0] address;
    wire [WORD_BITS-1:0] word;
    reg [WORD_BITS-1:0] read_word;
    wire sequencer_idle;
    assign idle = sequencer_idle && host_writes == 0;
    host_port #(
        .HOST_BITS(HOST_BITS), .WORD_BITS(WORD_BITS),
        .ACTIVATION_BEATS((ACTIVATION_WIDTH + HOST_BITS - 1) / HOST_BITS),
        .RESIDUAL_BEATS((RESIDUAL_WIDTH + HOST_BITS - 1) / HOST_BITS),
        .WEIGHT_BEATS((WEIGHT_WIDTH + HOST_BITS - 1) / HOST_BITS),
        .CONSTANT_BEATS((CONSTANT_WIDTH + HOST_BITS - 1) / HOST_BITS),
        .THRESHOLD_BEATS((THRESHOLD_WIDTH + HOST_BITS - 1) / HOST_BITS),
        .LOOKUP_BEATS((RESIDUAL_BITS + HOST_BITS - 1) / HOST_BITS),
        .CLASS_BEATS((CLASS_BITS + HOST_BITS - 1) / HOST_BITS),
        .DESCRIPTOR_BEATS((`DESCRIPTOR_BITS + HOST_BITS - 1) / HOST_BITS)
    ) host (
        .clk(clk), .reset(reset), .idle(sequencer_idle), .host_valid(host_valid), .host_ready(host_ready),
        .host_write(host_write), .host_memory(host_memory), .host_address(host_address), .host_data(host_data),
        .host_answer_valid(host_answer_valid), .host_answer(host_answer), .write(host_writes), .read(host_reads),
        .address(address), .word(word), .read_word(read_word)
    );

    // ---- stage 0: reads are issued
    wire loading, tick, finished;
    wire descriptor_read;
    wire [23:0] descriptor_address;
    wire [`DESCRIPTOR_BITS-1:0] descriptor_word, descriptor;
    wire main_issue, main_read, main_first, main_value, main_in_image, main_plane_first;
    wire [15:0] main_lanes, main_bank, operand_bank;
    wire [5:0] main_shift, operand_shift;
    wire [23:0] main_address, weight_address, operand_address, constant_address, class_address;
    wire class_read;
    wire operand_issue, operand_plane_first;
    sequencer #(
        .PE(PE), .SIMD(SIMD), .ACT_BITS(ACT_BITS), .RESIDUAL_BITS(RESIDUAL_BITS), .RESIDUAL_PORTS(RESIDUAL_PORTS)
    ) loop_nest (
        .clk(clk), .reset(reset), .start(start && idle), .finished(finished), .idle(sequencer_idle), .loading(loading),
        .step_done(step_done), .done(done), .descriptor_read(descriptor_read),
        .descriptor_address(descriptor_address), .descriptor_word(descriptor_word), .descriptor(descriptor),
        .main_issue(main_issue), .main_read(main_read), .main_first(main_first), .main_value(main_value), .main_in_image(main_in_image),
        .main_lanes(main_lanes), .main_bank(main_bank), .main_plane_first(main_plane_first),
        .main_shift(main_shift), .main_address(main_address), .weight_address(weight_address),
        .operand_issue(operand_issue), .operand_plane_first(operand_plane_first), .operand_shift(operand_shift),
        .operand_bank(operand_bank), .operand_address(operand_address), .tick(tick),
        .constant_address(constant_address), .class_read(class_read), .class_address(class_address)
    );
    wire convolve = descriptor[`MAIN] == 2'd0;
    wire maximum = descriptor[`MAIN] == 2'd2;

    // ---- memories of tensors: reads of main and of the operand never meet at one port
    wire main_residual = main_read && descriptor[`MAIN_MEMORY];
    wire main_activation = main_read && !descriptor[`MAIN_MEMORY];
    wire operand_residual = operand_issue && descriptor[`OPERAND_MEMORY];
    wire operand_activation = operand_issue && !descriptor[`OPERAND_MEMORY];
    wire [23:0] host_row = address / GROUPS[23:0];
    wire [23:0] host_bank = address % GROUPS[23:0];
    wire write;
    wire [23:0] write_address;
    wire [GROUPS-1:0] write_banks;
    wire [ACTIVATION_WIDTH-1:0] write_activations;
    wire [RESIDUAL_WIDTH-1:0] write_residuals;
    wire [SIMD*ACT_BITS-1:0] activations;
    wire [RESIDUAL_WIDTH-1:0] residuals;
    genvar bank;
    generate
        for (bank = 0; bank < GROUPS; bank = bank + 1) begin : activation_banks
            localparam [15:0] NUMBER = bank;
            assign probe_activation_reads[bank] = (main_activation && (convolve || main_bank == NUMBER))
                || (operand_activation && operand_bank == NUMBER);
            memory #(.WIDTH(ACTIVATION_WIDTH), .DEPTH(ACTIVATION_WORDS)) activation_memory (
                .clk(clk), .read(probe_activation_reads[bank] || host_reads[0]),
                .read_address(host_reads[0] ? host_row : main_activation ? main_address : operand_address),
                .read_data(activations[bank*ACTIVATION_WIDTH +: ACTIVATION_WIDTH]),
                .write((write && write_banks[bank]) || (host_writes[0] && host_bank == {8'd0, NUMBER})),
                .write_address(host_writes[0] ? host_row : write_address),
                .write_data(host_writes[0] ? word[ACTIVATION_WIDTH-1:0] : write_activations)
            );
        end
    endgenerate
    memory #(.WIDTH(RESIDUAL_WIDTH), .DEPTH(RESIDUAL_WORDS)) residual_memory (
        .clk(clk), .read(main_residual || (operand_residual && RESIDUAL_PORTS == 1) || host_reads[1]),
        .read_address(host_reads[1] ? address : main_residual ? main_address : operand_address),
        .read_data(residuals), .write((write && descriptor[`WRITE_MEMORY]) || host_writes[1]),
        .write_address(host_writes[1] ? address : write_address),
        .write_data(host_writes[1] ? word[RESIDUAL_WIDTH-1:0] : write_residuals)
    );
    // A second read port is a second copy.
    wire [RESIDUAL_WIDTH-1:0] operand_residuals;
    generate
        if (RESIDUAL_PORTS == 2) begin : second_port
            memory #(.WIDTH(RESIDUAL_WIDTH), .DEPTH(RESIDUAL_WORDS)) residual_copy (
                .clk(clk), .read(operand_residual), .read_address(operand_address), .read_data(operand_residuals),
                .write((write && descriptor[`WRITE_MEMORY]) || host_writes[1]),
                .write_address(host_writes[1] ? address : write_address),
                .write_data(host_writes[1] ? word[RESIDUAL_WIDTH-1:0] : write_residuals)
            );
        end else begin : one_port
            assign operand_residuals = residuals;
        end
    endgenerate
    always @* begin
        read_word = 0;
        if (host_reads_residual) read_word[RESIDUAL_WIDTH-1:0] = residuals;
        else read_word[ACTIVATION_WIDTH-1:0] = activations[host_bank[BANK_BITS-1:0]*ACTIVATION_WIDTH +: ACTIVATION_WIDTH];
    end
    reg host_reads_residual;
    always @(posedge clk) if (host_reads != 0) host_reads_residual <= host_reads[1];

    // ---- memories that only the host writes
    wire [WEIGHT_WIDTH-1:0] weights;
    wire weight_read = main_issue && convolve && main_plane_first;
    memory #(.WIDTH(WEIGHT_WIDTH), .DEPTH(WEIGHT_WORDS)) weight_memory (
        .clk(clk), .read(weight_read), .read_address(weight_address), .read_data(weights),
        .write(host_writes[2]), .write_address(address), .write_data(word[WEIGHT_WIDTH-1:0])
    );
    wire post_read;
    wire constant_read = post_read && descriptor[`POST] == 2'd1;
    wire threshold_read = post_read && descriptor[`POST] == 2'd2;
    assign probe_reads = {descriptor_read, class_read, threshold_read, constant_read, weight_read, operand_residual,
        main_residual};
    assign probe_writes = {write && descriptor[`WRITE_MEMORY], write && !descriptor[`WRITE_MEMORY]};
    wire [23:0] post_address;
    wire [CONSTANT_WIDTH-1:0] constants;
    memory #(.WIDTH(CONSTANT_WIDTH), .DEPTH(CONSTANT_WORDS)) constant_memory (
        .clk(clk), .read(constant_read), .read_address(post_address), .read_data(constants),
        .write(host_writes[3]), .write_address(address), .write_data(word[CONSTANT_WIDTH-1:0])
    );
    wire [THRESHOLD_WIDTH-1:0] thresholds;
    wire [LOOKUP_PORTS*24-1:0] lookup_addresses;
    wire [LOOKUP_PORTS*RESIDUAL_BITS-1:0] lookups;
    wire [CLASS_BITS-1:0] position_class;
    genvar port;
    generate
        if (COMPARATORS > 0) begin : with_thresholds
            memory #(.WIDTH(THRESHOLD_WIDTH), .DEPTH(THRESHOLD_WORDS)) threshold_memory (
                .clk(clk), .read(threshold_read), .read_address(post_address),
                .read_data(thresholds), .write(host_writes[4]), .write_address(address),
                .write_data(word[THRESHOLD_WIDTH-1:0])
            );
        end else begin : without_thresholds
            assign thresholds = 0;
        end
        for (port = 0; port < LOOKUP_PORTS; port = port + 1) begin : lookup_ports
            if (LOOKUPS > 0) begin : with_lookups
                memory #(.WIDTH(RESIDUAL_BITS), .DEPTH(LOOKUP_WORDS)) lookup_memory (
                    .clk(clk), .read(probe_lookup_reads[port]), .read_address(lookup_addresses[port*24 +: 24]),
                    .read_data(lookups[port*RESIDUAL_BITS +: RESIDUAL_BITS]), .write(host_writes[5]),
                    .write_address(address), .write_data(word[RESIDUAL_BITS-1:0])
                );
            end else begin : without_lookups
                assign lookups[port*RESIDUAL_BITS +: RESIDUAL_BITS] = 0;
            end
        end
    endgenerate
    memory #(.WIDTH(CLASS_BITS), .DEPTH(CLASS_WORDS)) class_memory (
        .clk(clk), .read(class_read), .read_address(class_address), .read_data(position_class),
        .write(host_writes[6]), .write_address(address), .write_data(word[CLASS_BITS-1:0])
    );
    memory #(.WIDTH(`DESCRIPTOR_BITS), .DEPTH(DESCRIPTOR_WORDS)) descriptor_memory (
        .clk(clk), .read(descriptor_read), .read_address(descriptor_address), .read_data(descriptor_word),
        .write(host_writes[7]), .write_address(address), .write_data(word[`DESCRIPTOR_BITS-1:0])
    );

    // ---- flags that travel beside the data, by stage
    reg issue_1, first_1, value_1, in_image_1, plane_first_1, tick_1, tick_2, tick_3;
    reg [15:0] lanes_1, lanes_2, bank_1, operand_bank_1;
    reg [5:0] shift_1, shift_2, operand_shift_1;
    reg operand_1, operand_plane_first_1;
    reg valid_2, first_2, in_image_2;
    reg [23:0] constant_1, constant_2, constant_3;
    wire [23:0] class_offset = {{(24-CLASS_BITS){1'b0}}, position_class} * descriptor[`CLASS_STEP];
    always @(posedge clk) begin
        issue_1 <= main_issue && !reset;
        operand_1 <= operand_issue && !reset;
        tick_1 <= tick && !reset;
        tick_2 <= tick_1 && !reset;
        tick_3 <= tick_2 && !reset;
        valid_2 <= issue_1 && value_1 && !reset;
        first_1 <= main_first;
        value_1 <= main_value;
        in_image_1 <= main_in_image;
        plane_first_1 <= main_plane_first;
        lanes_1 <= main_lanes;
        bank_1 <= main_bank;
        shift_1 <= main_shift;
        operand_plane_first_1 <= operand_plane_first;
        operand_shift_1 <= operand_shift;
        operand_bank_1 <= operand_bank;
        first_2 <= first_1;
        in_image_2 <= in_image_1;
        lanes_2 <= lanes_1;
        shift_2 <= shift_1;
        constant_1 <= constant_address;
        constant_2 <= constant_1 + (descriptor[`CLASSES] ? class_offset : 24'd0);
        constant_3 <= constant_2;
    end

    // ---- stages 1 and 2: the array, the lanes, the operand
    wire [PE*TERM_BITS-1:0] terms;
    wire [31:0] padding_code = descriptor[`PADDING_CODE];
    wire [31+ACT_BITS:0] padding_plane = {{ACT_BITS{1'b0}}, padding_code} >> shift_1;
    array #(
        .DATAPATH(DATAPATH), .PE(PE), .SIMD(SIMD), .ACT_BITS(ACT_BITS), .WEIGHT_BITS(WEIGHT_BITS), .SUM_BITS(SUM_BITS)
    ) all_products (
        .clk(clk), .valid(issue_1 && convolve), .in_image(in_image_1), .lanes(lanes_1), .bipolar(descriptor[`BIPOLAR]),
        .padding_zero(descriptor[`PADDING_ZERO]), .padding(padding_plane[ACT_BITS-1:0]), .stored(activations),
        .weights(weights), .terms(terms)
    );
    wire [PE*ACC_BITS-1:0] numbers;
    lanes #(
        .PE(PE), .SIMD(SIMD), .ACT_BITS(ACT_BITS), .RESIDUAL_BITS(RESIDUAL_BITS), .WIDTH(ACC_BITS)
    ) main_lane_numbers (
        .clk(clk), .valid(issue_1 && !convolve), .plane_first(plane_first_1), .shift(shift_1),
        .memory(descriptor[`MAIN_MEMORY]), .bank(bank_1), .activations(activations), .residuals(residuals),
        .numbers(numbers)
    );
    wire [PE*RESULT_BITS-1:0] operands;
    lanes #(
        .PE(PE), .SIMD(SIMD), .ACT_BITS(ACT_BITS), .RESIDUAL_BITS(RESIDUAL_BITS), .WIDTH(RESULT_BITS)
    ) operand_numbers (
        .clk(clk), .valid(operand_1), .plane_first(operand_plane_first_1), .shift(operand_shift_1),
        .memory(descriptor[`OPERAND_MEMORY]), .bank(operand_bank_1), .activations(activations),
        .residuals(operand_residuals), .numbers(operands)
    );

    // ---- stage 3: accumulators
    wire [PE*ACC_BITS-1:0] sums;
    accumulators #(.PE(PE), .ACC_BITS(ACC_BITS), .TERM_BITS(TERM_BITS)) accumulate (
        .clk(clk), .valid(valid_2), .first(first_2), .convolve(convolve), .maximum(maximum), .in_image(in_image_2),
        .lanes_used(lanes_2), .shift(shift_2), .offset(descriptor[`READ_OFFSET]), .terms(terms), .numbers(numbers),
        .sums(sums)
    );

    // ---- stages 4 and 5: hold register and post unit
    wire [PE*RESULT_BITS-1:0] q_operands;
    post #(
        .PE(PE), .ACC_BITS(ACC_BITS), .POST(POST), .CSD_DIGITS(CSD_DIGITS), .MULTIPLIER_BITS(MULTIPLIER_BITS),
        .COMPARATORS(COMPARATORS), .LOOKUPS(LOOKUPS), .PRODUCT_BITS(PRODUCT_BITS), .OFFSET_BITS(OFFSET_BITS),
        .SHIFT_BITS(SHIFT_BITS), .RESIDUAL_BITS(RESIDUAL_BITS), .RESULT_BITS(RESULT_BITS), .RECORD_BITS(RECORD_BITS)
    ) requantise (
        .clk(clk), .reset(reset), .descriptor(descriptor), .tick_2(tick_2), .tick_3(tick_3), .constant_3(constant_3),
        .sums_3(sums), .operands_2(operands), .constant_read(post_read), .constant_address(post_address),
        .constants(constants), .thresholds(thresholds), .lookup_reads(probe_lookup_reads),
        .lookup_addresses(lookup_addresses), .lookups(lookups), .raw_valid(probe_raw_valid), .raw(probe_raw),
        .q_valid(probe_q_valid), .q(probe_q), .q_operands(q_operands)
    );

    // ---- stage 6: addition and writes
    writer #(
        .PE(PE), .SIMD(SIMD), .ACT_BITS(ACT_BITS), .RESIDUAL_BITS(RESIDUAL_BITS), .RESULT_BITS(RESULT_BITS)
    ) results (
        .clk(clk), .reset(reset), .start(start && idle), .loading(loading), .descriptor_word(descriptor_word),
        .descriptor(descriptor), .q_valid(probe_q_valid), .q(probe_q), .q_operands(q_operands),
        .result_valid(probe_number_valid), .numbers(probe_number), .write(write), .write_address(write_address),
        .write_banks(write_banks), .write_activations(write_activations), .write_residuals(write_residuals),
        .finished(finished), .saturations(saturations)
    );
    wire unused = &{1'b0, word, host_bank, host_writes, host_reads, padding_plane, lookup_addresses};
endmodule
